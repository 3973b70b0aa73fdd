//! Queries of cursors: where the next run of a background job continues, on whichever replica it runs.

use sea_orm::{ActiveValue::Set, DbErr, EntityTrait as _, sea_query::OnConflict};
use serde::{Serialize, de::DeserializeOwned};

use super::Store;
use crate::{
    entity::job_cursor::{self, Column},
    error::{Error, Result},
};

impl Store {
    /// Where a job continues; `None` if it begins at the start.
    pub(crate) async fn find_cursor<P: DeserializeOwned>(&self, job: &str) -> Result<Option<P>> {
        let row = job_cursor::Entity::find_by_id(job)
            .one(&self.reader)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let place = serde_json::from_str(&row.place).map_err(|error| {
            DbErr::Type(format!(
                "invalid place in table job_cursors: {}: {error}",
                row.place
            ))
        })?;
        Ok(Some(place))
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
            .exec_without_returning(&self.writer)
            .await?;
        Ok(())
    }
}
