//! The hosts of a URL of PostgreSQL, in the form of its own library: `postgres://USER@HOST1:5432,HOST2:5432/NAME`.

/// The parameter with which that library chooses among hosts.
const ATTRIBUTES: &str = "target_session_attrs";
/// The parameter that says that PgBouncer is between.
const PGBOUNCER: &str = "pgbouncer";

/// The hosts of a URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostList {
    /// At least one.
    pub(crate) hosts: Vec<HostUrl>,
    /// Whether PgBouncer is between.
    pub(crate) is_bounced: bool,
}

/// A host with its port as written, and the URL of it alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostUrl {
    pub(crate) name: String,
    pub(crate) url: String,
}

/// Splits the URL of a PostgreSQL database into one for each host.
///
/// # Errors
/// One sentence that says what is wrong. It repeats no password.
pub(crate) fn split(url: &str) -> Result<HostList, String> {
    let (url, is_bounced) = without_attributes(url)?;
    let hosts = hosts(url)?;
    Ok(HostList { hosts, is_bounced })
}

/// The URL of the same database through PgBouncer.
pub(crate) fn bounced(url: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{PGBOUNCER}=true")
}

fn hosts(url: String) -> Result<Vec<HostUrl>, String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err("DATABASE_URL must name a database".to_owned());
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, hosts) = authority
        .rsplit_once('@')
        .map_or(("", authority), |(user, hosts)| (user, hosts));
    let at = if authority.contains('@') { "@" } else { "" };
    if !hosts.contains(',') {
        let name = hosts.to_owned();
        return Ok(vec![HostUrl { name, url }]);
    }
    hosts
        .split(',')
        .map(|host| {
            if host.is_empty() || host.starts_with(':') {
                // A password with a slash ends what is read as hosts, so they may be a part of it.
                return Err(
                    "DATABASE_URL has an empty host; write them as HOST1:5432,HOST2:5432, and `/` in a password as %2F"
                        .to_owned(),
                );
            }
            Ok(HostUrl {
                name: host.to_owned(),
                url: format!("{scheme}://{user}{at}{host}{path}"),
            })
        })
        .collect()
}

/// The URL without the parameters that the driver does not know, and whether PgBouncer is between.
fn without_attributes(url: &str) -> Result<(String, bool), String> {
    let Some((base, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), false));
    };
    let (mut kept, mut is_bounced) = (Vec::new(), false);
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some((PGBOUNCER, "true")) => is_bounced = true,
            // What is done anyway.
            Some((ATTRIBUTES, "read-write" | "primary") | (PGBOUNCER, "false")) => {}
            Some((PGBOUNCER, value)) => {
                return Err(format!(
                    "DATABASE_URL has {PGBOUNCER}={value}; use true or false"
                ));
            }
            Some((ATTRIBUTES, value)) => {
                return Err(format!(
                    "DATABASE_URL has {ATTRIBUTES}={value}, and this service writes: leave it out, or set it to read-write"
                ));
            }
            _ => kept.push(pair),
        }
    }
    if kept.is_empty() {
        return Ok((base.to_owned(), is_bounced));
    }
    Ok((format!("{base}?{}", kept.join("&")), is_bounced))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(url: &str) -> Vec<String> {
        let list = split(url).unwrap();
        list.hosts.into_iter().map(|host| host.url).collect()
    }

    #[test]
    fn each_host_gets_a_url_with_everything_else() {
        assert_eq!(
            urls(
                "postgres://u:p%40@h1:5433,[::1]:5434,h3/db?sslmode=require&target_session_attrs=read-write"
            ),
            [
                "postgres://u:p%40@h1:5433/db?sslmode=require",
                "postgres://u:p%40@[::1]:5434/db?sslmode=require",
                "postgres://u:p%40@h3/db?sslmode=require",
            ]
        );
        assert_eq!(
            urls("postgresql://h1,h2"),
            ["postgresql://h1", "postgresql://h2"]
        );
        let names: Vec<String> = split("postgres://u:secret@h1:1,h2:2/db")
            .unwrap()
            .hosts
            .into_iter()
            .map(|host| host.name)
            .collect();
        assert_eq!(names, ["h1:1", "h2:2"]);
    }

    #[test]
    fn a_url_of_one_host_stays_as_it_is() {
        for url in [
            "postgres://u:p,q@h/db?application_name=a,b",
            "postgres:///db?host=/run/postgresql",
            "postgres://u@%2Frun%2Fpostgresql/db",
        ] {
            assert_eq!(urls(url), [url]);
        }
        assert_eq!(
            urls("postgres://h/db?target_session_attrs=primary"),
            ["postgres://h/db"]
        );
    }

    #[test]
    fn pgbouncer_is_named_in_the_url() {
        for (url, is_bounced) in [
            (bounced("postgres://h/db"), true),
            (bounced("postgres://h/db?sslmode=require"), true),
            ("postgres://h/db?pgbouncer=false".to_owned(), false),
            ("postgres://h/db".to_owned(), false),
        ] {
            let list = split(&url).unwrap();
            assert_eq!(list.is_bounced, is_bounced, "{url}");
            assert!(!list.hosts[0].url.contains("pgbouncer"), "{list:?}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_the_password() {
        for url in [
            "postgres://u:secret@h1,,h2/db",
            "postgres://u:secret,,more/of-it@h/db",
            "postgres://u:secret@h1,:5432/db",
            "postgres://u:secret@h1,h2/db?target_session_attrs=standby",
            "postgres://u:secret@h1/db?target_session_attrs=any",
            "postgres://u:secret@h1/db?pgbouncer=yes",
        ] {
            let error = split(url).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
