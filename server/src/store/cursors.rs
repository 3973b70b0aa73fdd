//! Queries of cursors: where the next run of a background job continues, on whichever replica it runs.

use sea_orm::{ActiveValue::Set, DbErr, EntityTrait as _, sea_query::OnConflict};

use super::Store;
use crate::{
    domain::stream::Stream,
    entity::job_cursor::{self, Column},
    error::{Error, Result},
};

impl Store {
    /// The stream after which a job continues; `None` if it begins with the first one.
    pub(crate) async fn find_cursor(&self, job: &str) -> Result<Option<Stream>> {
        let row = job_cursor::Entity::find_by_id(job)
            .one(&self.reader)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let (customer, meter) = serde_json::from_str(&row.place).map_err(|error| {
            DbErr::Type(format!(
                "invalid place in table job_cursors: {}: {error}",
                row.place
            ))
        })?;
        Ok(Some(Stream { customer, meter }))
    }

    /// Sets the stream after which a job continues.
    pub(crate) async fn set_cursor(&self, job: &str, after: Option<&Stream>) -> Result<()> {
        let Some(Stream { customer, meter }) = after else {
            job_cursor::Entity::delete_by_id(job)
                .exec(&self.writer)
                .await?;
            return Ok(());
        };
        let place = serde_json::to_string(&(customer, meter));
        let row = job_cursor::ActiveModel {
            name: Set(job.to_owned()),
            place: Set(place.map_err(|error| Error::Internal(error.into()))?),
        };
        let replace = OnConflict::column(Column::Name)
            .update_column(Column::Place)
            .to_owned();
        job_cursor::Entity::insert(row)
            .on_conflict(replace)
            .exec_without_returning(&self.writer)
            .await?;
        Ok(())
    }
}
