//! The calls of the proto's `AccessService`. All need the key of an admin without limits.

use super::UsageClient;
use crate::{
    ApiKey, AuditPage, CreateKey, CreatedKey, Error, KeyPage, ListAuditEntries, proto,
    retry::Repeatable, wire::page_size_to_wire,
};

impl UsageClient {
    /// Creates an API key. Its text is in the result and nowhere else.
    ///
    /// Not repeated if an attempt may have taken effect: its key would be lost. List the keys then, and revoke it.
    pub async fn create_key(&self, key: CreateKey) -> Result<CreatedKey, Error> {
        let response = self.unary(
            &self.access,
            Repeatable::WithoutEffect,
            key.into_wire()?,
            |mut access, request| async move { access.create_key(request).await },
        );
        let response = response.await?;
        Ok(CreatedKey {
            key: ApiKey::from_wire(response.key)?,
            text: response.text,
        })
    }

    /// Lists one page of the keys, ordered by id: at most `page_size` of them, up to 1,000, after those of the page with
    /// this token.
    pub async fn list_keys(
        &self,
        page_size: u32,
        page_token: Option<String>,
    ) -> Result<KeyPage, Error> {
        let request = proto::ListKeysRequest {
            page_size: page_size_to_wire(page_size),
            page_token: page_token.unwrap_or_default(),
        };
        let response = self.unary(
            &self.access,
            Repeatable::Always,
            request,
            |mut access, request| async move { access.list_keys(request).await },
        );
        KeyPage::from_wire(response.await?)
    }

    /// Revokes the key with this id: every server refuses it 5 seconds later at the latest. Whether it was revoked before is in
    /// the second part of the result.
    pub async fn revoke_key(&self, id: impl Into<String>) -> Result<(ApiKey, bool), Error> {
        let response = self.unary(
            &self.access,
            Repeatable::Always,
            proto::RevokeKeyRequest { id: id.into() },
            |mut access, request| async move { access.revoke_key(request).await },
        );
        let response = response.await?;
        Ok((ApiKey::from_wire(response.key)?, response.duplicate))
    }

    /// Lists one page of what admins did, tried to do and were refused, newest first.
    pub async fn list_audit_entries(&self, filter: ListAuditEntries) -> Result<AuditPage, Error> {
        let response = self.unary(
            &self.access,
            Repeatable::Always,
            filter.into_wire()?,
            |mut access, request| async move { access.list_audit_entries(request).await },
        );
        AuditPage::from_wire(response.await?)
    }
}
