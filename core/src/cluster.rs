//! Membership as replicated state: who is in the cluster, who may never return, which version rules.
//!
//! [`Cluster::validate`] judges a change before it is proposed, with the rules that depend on
//! configuration; [`Cluster::apply`] makes it, on every member alike, and returns the rows to store.
//! Whether peers answer and whether a learner has caught up is the node's business, not known here.
//!
//! Invariants: this is the one source of truth for members (etcd #19557); `apply` and `publish` are
//! pure functions of the state and the change; only a promotion turns a learner into a voter (etcd
//! PR21736); a removed id never returns; at least one voter remains.

mod bootstrap;
mod urls;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sha1::{Digest, Sha1};

use crate::api::Member;
use crate::backend::Table;
use crate::command::MemberChange;
use crate::error::Error;
use crate::types::{ClusterId, MemberId};

pub use bootstrap::BootstrapError;
pub use urls::{UrlError, parse_initial_cluster, parse_urls};

/// The row of [`Table::Meta`] that holds the cluster's version, as text.
pub const VERSION_KEY: &[u8] = b"cluster_version";

const FORMAT: u8 = 1;

/// A change to one row of a table; `None` deletes it.
pub type RowChange = (Table, Bytes, Option<Bytes>);

/// The id of a member (A-C-01): a hash of its peer URLs, with the cluster's token at bootstrap, or
/// with an empty token and the current time when it is added to a running cluster.
pub fn member_id(peer_urls: &[String], token: &str, unix_seconds: Option<u64>) -> MemberId {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    sorted.iter().for_each(|url| hash.update(url));
    hash.update(token);
    if let Some(seconds) = unix_seconds {
        hash.update(seconds.to_string());
    }
    first_eight(&hash.finalize())
}

/// The id of a cluster: a hash of the ids of its first members.
pub fn cluster_id(ids: impl Iterator<Item = MemberId>) -> ClusterId {
    let sorted: BTreeSet<MemberId> = ids.collect();
    let mut hash = Sha1::new();
    sorted.iter().for_each(|id| hash.update(id.to_be_bytes()));
    first_eight(&hash.finalize())
}

fn first_eight(digest: &[u8]) -> u64 {
    u64::from_be_bytes(digest[..8].try_into().expect("SHA-1 gives 20 bytes"))
}

/// The members of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    id: ClusterId,
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
    version: Option<String>,
}

impl Cluster {
    /// The cluster's id, fixed at bootstrap.
    pub fn id(&self) -> ClusterId {
        self.id
    }

    /// All members, in order of id.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.values()
    }

    /// One member.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The members that vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.is_learner)
    }

    /// The members that only listen.
    pub fn learners(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| member.is_learner)
    }

    /// Whether the id belonged to a member that was removed.
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// The removed ids, ascending.
    pub fn removed(&self) -> impl Iterator<Item = MemberId> {
        self.removed.iter().copied()
    }

    /// The cluster's version, once the first leader has set it.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Judges a change before it is proposed. `strict` is `--strict-reconfig-check`: the change must
    /// leave a quorum of members that have started. The checks come in etcd's order.
    ///
    /// # Errors
    /// The error for the client.
    pub fn validate(&self, change: &MemberChange, strict: bool, max_learners: usize) -> Result<(), Error> {
        match change {
            MemberChange::Add(member) => {
                check_urls(&member.peer_urls)?;
                if strict && !member.is_learner && !self.may_add_voter() {
                    return Err(Error::MemberNotEnoughStarted);
                }
                self.check(change)?;
                if member.is_learner && self.learners().count() >= max_learners {
                    return Err(Error::TooManyLearners);
                }
                Ok(())
            }
            MemberChange::Remove(id) => {
                let learner = self.members.get(id).is_some_and(|member| member.is_learner);
                if strict && !learner && !self.may_remove_voter(*id) {
                    return Err(Error::MemberNotEnoughStarted);
                }
                self.check(change)
            }
            MemberChange::Update(_, peer_urls) => {
                check_urls(peer_urls)?;
                self.check(change)
            }
            MemberChange::Promote(id) => {
                self.check(change)?;
                // A learner that never started has nothing to vote with (etcd PR15096, PR20051).
                if !self.members.get(id).is_some_and(is_started) {
                    return Err(Error::LearnerNotReady);
                }
                if strict && !self.may_promote() {
                    return Err(Error::MemberNotEnoughStarted);
                }
                Ok(())
            }
        }
    }

    /// Makes a committed change; returns the rows to store, in ascending order. An error changes
    /// nothing, and every member comes to the same one. The limit of learners is not looked at: it is
    /// configuration, which members need not share.
    ///
    /// # Errors
    /// The error for the client that asked.
    pub fn apply(&mut self, change: &MemberChange) -> Result<Vec<RowChange>, Error> {
        self.check(change)?;
        match change {
            MemberChange::Add(member) => {
                let peer_urls = check_urls(&member.peer_urls)?;
                self.members.insert(member.id, Member { peer_urls, ..member.clone() });
                Ok(self.member_row(member.id))
            }
            MemberChange::Remove(id) => {
                self.members.remove(id);
                self.removed.insert(*id);
                Ok(vec![
                    (Table::Members, id_key(*id), None),
                    (Table::Removed, id_key(*id), Some(Bytes::new())),
                ])
            }
            MemberChange::Update(id, peer_urls) => {
                check_urls(peer_urls)?;
                self.edit(*id, |member| member.peer_urls.clone_from(peer_urls))
            }
            MemberChange::Promote(id) => self.edit(*id, |member| member.is_learner = false),
        }
    }

    /// Records what a member says of itself at its start (A-C-11). A member that is gone says it in
    /// vain: no rows.
    pub fn publish(&mut self, id: MemberId, name: &str, client_urls: &[String]) -> Vec<RowChange> {
        self.edit(id, |member| {
            name.clone_into(&mut member.name);
            client_urls.clone_into(&mut member.client_urls);
        })
        .unwrap_or_default()
    }

    /// Records the cluster's version.
    pub fn set_version(&mut self, version: &str) -> Vec<RowChange> {
        self.version = Some(version.to_owned());
        vec![version_row(version)]
    }

    /// Every row of this state, in ascending order: what a new member's empty store is filled with.
    pub fn rows(&self) -> Vec<RowChange> {
        let members = self.members.keys().flat_map(|&id| self.member_row(id));
        let removed = self.removed.iter().map(|&id| (Table::Removed, id_key(id), Some(Bytes::new())));
        members.chain(removed).chain(self.version.as_deref().map(version_row)).collect()
    }

    /// Rebuilds the state from stored rows of [`Table::Members`], [`Table::Removed`] and
    /// [`Table::Meta`]; rows that belong to others are passed over.
    ///
    /// # Errors
    /// A row that this version cannot read.
    pub fn load(
        id: ClusterId,
        rows: impl IntoIterator<Item = (Table, Bytes, Bytes)>,
    ) -> Result<Self, String> {
        let mut cluster = Self { id, ..Self::default() };
        for (table, key, value) in rows {
            match table {
                Table::Members => {
                    let member = decode_member(&value)?;
                    if key != id_key(member.id) {
                        return Err(format!("member {:x} is stored under another id", member.id));
                    }
                    cluster.members.insert(member.id, member);
                }
                Table::Removed => {
                    let id = <[u8; 8]>::try_from(key.as_ref())
                        .map_err(|_| format!("a removed member's id has {} bytes", key.len()))?;
                    cluster.removed.insert(u64::from_be_bytes(id));
                }
                Table::Meta if key == VERSION_KEY => {
                    let version = String::from_utf8(value.to_vec()).map_err(|error| error.to_string())?;
                    cluster.version = Some(version);
                }
                _ => {}
            }
        }
        Ok(cluster)
    }

    /// The rules that hold on every member, whatever its configuration.
    fn check(&self, change: &MemberChange) -> Result<(), Error> {
        match change {
            MemberChange::Add(member) => {
                check_urls(&member.peer_urls)?;
                if member.id == 0 {
                    return Err(Error::Other("cannot use 0 as member id".to_owned()));
                }
                if self.is_removed(member.id) {
                    return Err(Error::MemberNotFound);
                }
                if self.members.contains_key(&member.id) {
                    return Err(Error::MemberExists);
                }
                self.check_unique(member.id, &member.peer_urls)
            }
            MemberChange::Remove(id) => {
                let member = self.members.get(id).ok_or(Error::MemberNotFound)?;
                // Raft cannot run without voters, so not even a lax configuration may ask for it.
                if !member.is_learner && self.voters().count() == 1 {
                    return Err(Error::MemberNotEnoughStarted);
                }
                Ok(())
            }
            MemberChange::Update(id, peer_urls) => {
                check_urls(peer_urls)?;
                self.members.get(id).ok_or(Error::MemberNotFound)?;
                self.check_unique(*id, peer_urls)
            }
            MemberChange::Promote(id) => match self.members.get(id) {
                None => Err(Error::MemberNotFound),
                Some(member) if member.is_learner => Ok(()),
                Some(_) => Err(Error::MemberNotLearner),
            },
        }
    }

    /// No other member may have one of these URLs.
    fn check_unique(&self, id: MemberId, peer_urls: &[String]) -> Result<(), Error> {
        let urls = check_urls(peer_urls)?;
        let taken = self
            .members
            .values()
            .filter(|member| member.id != id)
            .any(|member| member.peer_urls.iter().any(|url| urls.contains(url)));
        if taken { Err(Error::PeerUrlExists) } else { Ok(()) }
    }

    fn may_add_voter(&self) -> bool {
        let (started, voters) = self.count_voters(None);
        // From one member to two always works: that is how a cluster is grown back after a disaster.
        (started == 1 && voters == 1) || started > voters.div_ceil(2)
    }

    fn may_remove_voter(&self, id: MemberId) -> bool {
        let (started, voters) = self.count_voters(Some(id));
        started > voters / 2
    }

    /// The promoted learner counts as started.
    fn may_promote(&self) -> bool {
        let (started, voters) = self.count_voters(None);
        started + 1 > voters.div_ceil(2)
    }

    /// How many voters have started, and how many there are, leaving one out.
    fn count_voters(&self, without: Option<MemberId>) -> (usize, usize) {
        let voters = || self.voters().filter(|member| Some(member.id) != without);
        (voters().filter(|member| is_started(member)).count(), voters().count())
    }

    fn edit(&mut self, id: MemberId, edit: impl FnOnce(&mut Member)) -> Result<Vec<RowChange>, Error> {
        edit(self.members.get_mut(&id).ok_or(Error::MemberNotFound)?);
        Ok(self.member_row(id))
    }

    fn member_row(&self, id: MemberId) -> Vec<RowChange> {
        self.members
            .get(&id)
            .map(|member| (Table::Members, id_key(id), Some(encode_member(member))))
            .into_iter()
            .collect()
    }
}

/// The value of a row of [`Table::Members`]: a format byte, then bincode.
pub fn encode_member(member: &Member) -> Bytes {
    let mut out = vec![FORMAT];
    bincode::serde::encode_into_std_write(member, &mut out, bincode::config::standard())
        .expect("a member always encodes into memory");
    out.into()
}

/// The inverse of [`encode_member`].
///
/// # Errors
/// An unknown format, or bytes that are not a whole member.
pub fn decode_member(bytes: &[u8]) -> Result<Member, String> {
    let (&format, body) = bytes.split_first().ok_or("an empty member row")?;
    if format != FORMAT {
        return Err(format!("member format {format}, this version reads {FORMAT}"));
    }
    let (member, used) = bincode::serde::decode_from_slice(body, bincode::config::standard())
        .map_err(|error| error.to_string())?;
    if used == body.len() { Ok(member) } else { Err("bytes after the member".to_owned()) }
}

pub(crate) fn check_urls(peer_urls: &[String]) -> Result<Vec<String>, Error> {
    parse_urls(peer_urls).map_err(|_| Error::MemberBadUrls)
}

/// A member that has started has published its name.
fn is_started(member: &Member) -> bool {
    !member.name.is_empty()
}

fn id_key(id: MemberId) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

fn version_row(version: &str) -> RowChange {
    (Table::Meta, Bytes::from_static(VERSION_KEY), Some(Bytes::copy_from_slice(version.as_bytes())))
}
