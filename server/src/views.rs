//! Placeholder until the export lands.
use cairn_core::api::{RangeRequest, RangeResponse};
use cairn_core::error::{Error, Fatal};
use cairn_core::mvcc::{Ranged, StoreView};
use cairn_net::services::{Export, Views};
use std::io;
use std::sync::Arc;
pub(crate) struct PinnedViews(Arc<dyn Fn(Fatal) + Send + Sync>);
impl PinnedViews {
    pub(crate) fn new(fatal: Arc<dyn Fn(Fatal) + Send + Sync>) -> Self {
        Self(fatal)
    }
}
impl Views for PinnedViews {
    fn range(&self, view: &StoreView, request: &RangeRequest) -> Result<RangeResponse, Error> {
        match view.range(request, None) {
            Ok(Ok(Ranged::Done(r))) => Ok(r),
            Ok(Ok(Ranged::TooLong)) => Err(Error::Timeout),
            Ok(Err(e)) => Err(e),
            Err(f) => {
                (self.0)(f);
                Err(Error::Stopped)
            }
        }
    }
    fn export(&self, _: StoreView) -> io::Result<Export> {
        Err(io::Error::other("not yet"))
    }
}
