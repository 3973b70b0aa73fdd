//! The commands as clients of a server with TLS.

use clap::{Args as _, FromArgMatches as _};
use usage_client::cli::{self, Streams};
use usage_server::commands::doctor::{self, DoctorCommand};

use super::{Secure, first_call};
use crate::support::world::{World, on_sqlite, within};

on_sqlite!(
    usagectl_reads_certificates_from_files,
    the_doctor_asks_a_server_over_tls,
);

async fn usagectl_reads_certificates_from_files(mut world: World) {
    let secure = Secure::start(&mut world, true).await;
    let own = secure.clients.as_ref().unwrap().sign("operator");
    first_call(&secure.client(Some(&own))).await;
    secure.files.write("ca.pem", &secure.authority.pem);
    secure.files.write("own.pem", &own.certificate.pem());
    secure.files.write("own.key", &own.key.serialize_pem());
    let usagectl = async |flags: &[(&str, &str)]| {
        let mut args = vec![
            "usagectl".to_owned(),
            "increment".to_owned(),
            "acct".to_owned(),
        ];
        args.push(format!("--server={}", secure.server.endpoint()));
        for (flag, name) in flags {
            args.push(format!("{flag}={}", secure.files.path(name).display()));
        }
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let streams = Streams {
            input: Box::new(std::io::empty()),
            out: &mut out,
            err: &mut err,
            are_terminals: false,
            width: None,
            stop: Box::pin(std::future::pending()),
        };
        let code = within("usagectl", cli::run(args, streams)).await;
        (code, String::from_utf8(err).unwrap())
    };
    let ca = ("--tls-ca", "ca.pem");
    let own = [ca, ("--tls-cert", "own.pem"), ("--tls-key", "own.key")];
    assert_eq!(usagectl(&own).await, (0, String::new()));
    let (code, error) = usagectl(&[ca]).await;
    assert_eq!(code, 1, "{error}");
    assert!(
        error.contains("the server needs a client certificate"),
        "{error}"
    );
    let (code, error) = usagectl(&own[1..]).await;
    assert_eq!(code, 1, "{error}");
    assert!(
        error.contains("the server's certificate is not trusted"),
        "{error}"
    );
    let (code, error) = usagectl(&own[..2]).await;
    assert_eq!(code, 2, "{error}");
    secure.stop(world).await;
}

async fn the_doctor_asks_a_server_over_tls(mut world: World) {
    let secure = Secure::start(&mut world, true).await;
    let own = secure.clients.as_ref().unwrap().sign("operator");
    secure.files.write("ca.pem", &secure.authority.pem);
    secure.files.write("own.pem", &own.certificate.pem());
    secure.files.write("own.key", &own.key.serialize_pem());
    let ask = async |flags: &[(&str, &str)]| {
        let mut args = vec![
            "doctor".to_owned(),
            format!("--server={}", secure.server.endpoint()),
        ];
        for (flag, name) in flags {
            args.push(format!("{flag}={}", secure.files.path(name).display()));
        }
        let command = DoctorCommand::augment_args(clap::Command::new("doctor"));
        let matches = command.try_get_matches_from(args).unwrap();
        let command = DoctorCommand::from_arg_matches(&matches).unwrap();
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let asked = doctor::run(&command, &mut out, &mut notes);
        let asked = within("an answer", asked).await;
        assert!(notes.is_empty(), "{notes:?}");
        asked.map(|_| String::from_utf8(out).unwrap())
    };
    let ca = ("--tls-ca", "ca.pem");
    let with_own = [ca, ("--tls-cert", "own.pem"), ("--tls-key", "own.key")];
    let out = ask(&with_own).await.unwrap();
    assert!(out.contains("ok    certificate"), "{out}");
    let error = ask(&[]).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    // Without a client certificate, the first call fails.
    assert!(ask(&[ca]).await.is_err());
    secure.stop(world).await;
}
