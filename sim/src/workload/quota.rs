//! A client that fills the quota and then makes space as an operator would: it compacts, defragments
//! and disarms the alarm.

use cairn_core::api::{AlarmAction, AlarmKind, AlarmRequest, PutRequest, Request};
use cairn_core::error::Error;

use super::Draw;
use super::script::{Record, Script, Told};

/// The bytes of a value.
const VALUE_BYTES: usize = 2000;

/// Where it stands.
#[derive(Clone, Copy, Debug, Default)]
pub enum Quota {
    /// It writes.
    #[default]
    Fill,
    /// It compacts.
    Compact,
    /// It defragments.
    Defragment,
    /// It disarms the alarm.
    Disarm,
}

impl Script for Quota {
    fn next(&mut self, draw: &mut Draw<'_>) -> Request {
        match self {
            Self::Fill => {
                let mut value = format!("v{}", draw.number).into_bytes();
                value.resize(VALUE_BYTES, b'.');
                let key = format!("q{:02}", draw.rng.below(4)).into();
                Request::Put(PutRequest { key, value: value.into(), ..PutRequest::default() })
            }
            Self::Compact => Request::Compact { revision: draw.revision, physical: false },
            Self::Defragment => Request::Defragment,
            Self::Disarm => Request::Alarm(AlarmRequest {
                action: AlarmAction::Deactivate,
                member_id: draw.member,
                alarm: Some(AlarmKind::NoSpace),
            }),
        }
    }

    fn told(&mut self, told: Told<'_>, _record: &mut Record) {
        *self = match (*self, told.answer) {
            (Self::Fill, Some(Err(Error::NoSpace))) => Self::Compact,
            (Self::Fill, _) => Self::Fill,
            (Self::Compact, _) => Self::Defragment,
            (Self::Defragment, _) => Self::Disarm,
            (Self::Disarm, _) => Self::Fill,
        };
    }
}
