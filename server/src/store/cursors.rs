//! Queries of cursors: where the next run of a background job continues, on whichever replica it runs.

use sea_orm::{
    ActiveValue::Set, ConnectionTrait, DbErr, EntityTrait as _, QuerySelect as _,
    sea_query::OnConflict,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Store, connection::Transaction};
use crate::{
    domain::{Millis, read_order::is_outdated},
    entity::job_cursor::{self, Column},
    error::{Error, Result},
};

/// Where a job continues whose steps record what they read at their beginning: what an earlier step read is dropped once a
/// later one has begun, on whichever replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepPlace<P> {
    /// When the latest step began.
    pub(crate) begun_at: Millis,
    /// The last place that is finished.
    pub(crate) after: Option<P>,
}

impl Store {
    /// Where a job continues; `None` if it begins at the start.
    pub(crate) async fn find_cursor<P: DeserializeOwned>(&self, job: &str) -> Result<Option<P>> {
        let row = job_cursor::Entity::find_by_id(job)
            .one(&self.reader)
            .await?;
        Ok(row.map(|row| parse(&row)).transpose()?)
    }

    /// Sets where a job continues.
    pub(crate) async fn set_cursor<P: Serialize>(
        &self,
        job: &str,
        place: Option<&P>,
    ) -> Result<()> {
        let Some(place) = place else {
            job_cursor::Entity::delete_by_id(job)
                .exec(&self.writer)
                .await?;
            return Ok(());
        };
        upsert(&self.writer, job, place).await
    }

    /// Sets where a job continues, unless a later step has begun. Returns whether it did.
    pub(crate) async fn set_step<P: Serialize + DeserializeOwned>(
        &self,
        job: &str,
        place: &StepPlace<P>,
    ) -> Result<bool> {
        let now = self.now().await?;
        let tx = self.begin().await?;
        if is_overtaken(&tx, job, place.begun_at, now).await? {
            tx.rollback().await?;
            return Ok(false);
        }
        upsert(&tx, job, place).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Whether a later step of a job has begun than the one of this time. None begins until the end of the transaction.
pub(super) async fn is_overtaken(
    tx: &Transaction,
    job: &str,
    begun_at: Millis,
    now: Millis,
) -> std::result::Result<bool, DbErr> {
    #[derive(Deserialize)]
    struct Begun {
        begun_at: Millis,
    }
    let row = job_cursor::Entity::find_by_id(job)
        .lock_exclusive()
        .one(tx)
        .await?;
    let latest: Option<Begun> = row.map(|row| parse(&row)).transpose()?;
    Ok(is_outdated(
        begun_at,
        latest.map(|latest| latest.begun_at),
        now,
    ))
}

fn parse<P: DeserializeOwned>(row: &job_cursor::Model) -> std::result::Result<P, DbErr> {
    serde_json::from_str(&row.place).map_err(|error| {
        DbErr::Type(format!(
            "invalid place in table job_cursors: {}: {error}",
            row.place
        ))
    })
}

async fn upsert(db: &impl ConnectionTrait, job: &str, place: &impl Serialize) -> Result<()> {
    let place = serde_json::to_string(place);
    let row = job_cursor::ActiveModel {
        name: Set(job.to_owned()),
        place: Set(place.map_err(|error| Error::Internal(error.into()))?),
    };
    let replace = OnConflict::column(Column::Name)
        .update_column(Column::Place)
        .to_owned();
    job_cursor::Entity::insert(row)
        .on_conflict(replace)
        .exec_without_returning(db)
        .await?;
    Ok(())
}
