//! How a member without data comes to know its cluster: from `--initial-cluster`, alone (C-BOOT-02)
//! or compared with the members of a running cluster (C-BOOT-03).
//!
//! Host names are compared through a function of the caller's, because resolving them is IO.

use std::collections::BTreeSet;

use super::{Cluster, cluster_id, member_id, parse_urls};
use crate::api::Member;

/// Why a member cannot start, in etcd's words; for the operator, not for clients.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum BootstrapError {
    #[error("initial cluster unset and no discovery URL found")]
    Unset,
    #[error("initial cluster {0} has duplicate url")]
    DuplicateUrl(String),
    #[error("couldn't find local name \"{0}\" in the initial cluster configuration")]
    NoLocalName(String),
    #[error("--initial-cluster has {0} but missing from --initial-advertise-peer-urls={1} ({2})")]
    NotAdvertised(String, String, String),
    #[error("--initial-advertise-peer-urls has {0} but missing from --initial-cluster={1}")]
    NotInCluster(String, String),
    #[error("member exists with identical ID {0:x}")]
    SameId(u64),
    #[error("member count is unequal")]
    CountUnequal,
    #[error(
        "PeerURLs: no match found for existing member ({id:x}, [{urls}]), last resolver error ({resolver})"
    )]
    NoMatch { id: u64, urls: String, resolver: String },
    #[error(transparent)]
    Url(#[from] super::UrlError),
}

impl Cluster {
    /// A new cluster: every listed member is a voter and has not published itself yet, save for its
    /// name, which the configuration gives.
    ///
    /// # Errors
    /// No members, a URL that two members claim or that is not acceptable.
    pub fn from_initial(token: &str, initial: &[(String, Vec<String>)]) -> Result<Self, BootstrapError> {
        if initial.is_empty() {
            return Err(BootstrapError::Unset);
        }
        let mut cluster = Self::default();
        let mut seen = BTreeSet::new();
        for (name, urls) in initial {
            let peer_urls = parse_urls(urls)?;
            if !peer_urls.iter().all(|url| seen.insert(url.clone())) {
                return Err(BootstrapError::DuplicateUrl(describe(initial)));
            }
            let id = member_id(&peer_urls, token, None);
            let member = Member { id, name: name.clone(), peer_urls, ..Member::default() };
            if cluster.members.insert(id, member).is_some() {
                return Err(BootstrapError::SameId(id));
            }
        }
        cluster.id = cluster_id(cluster.members.keys().copied());
        Ok(cluster)
    }

    /// The member that the configuration calls `name`; its URLs in the initial cluster must be those
    /// that it advertises (C-VAL-09, C-VAL-10). `same` compares the lists,
    /// resolving host names where the text differs; its error says how they differ.
    ///
    /// # Errors
    /// The name is not listed, or the URLs differ.
    pub fn local(
        &self,
        name: &str,
        advertise: &[String],
        same: impl FnOnce(&[String], &[String]) -> Result<(), String>,
    ) -> Result<&Member, BootstrapError> {
        let member = self
            .members()
            .find(|member| member.name == name)
            .ok_or_else(|| BootstrapError::NoLocalName(name.to_owned()))?;
        let advertise = parse_urls(advertise)?;
        let Err(difference) = same(&advertise, &member.peer_urls) else { return Ok(member) };
        let named =
            |urls: &[String]| urls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(",");
        let missing = missing_from(&member.peer_urls, &advertise);
        if missing.is_empty() {
            let surplus = missing_from(&advertise, &member.peer_urls).join(",");
            return Err(BootstrapError::NotInCluster(surplus, named(&advertise)));
        }
        Err(BootstrapError::NotAdvertised(named(&missing), advertise.join(","), difference))
    }

    /// What a joining member starts with: its own initial cluster, under the ids, names and roles of
    /// the running cluster's members, which `same` matches by their peer URLs (C-VAL-14).
    ///
    /// # Errors
    /// The two lists do not describe the same members.
    pub fn join(
        &self,
        id: u64,
        existing: &[Member],
        mut same: impl FnMut(&[String], &[String]) -> Result<(), String>,
    ) -> Result<Self, BootstrapError> {
        if existing.len() != self.members.len() {
            return Err(BootstrapError::CountUnequal);
        }
        let mut joined = Self { id, ..Self::default() };
        for member in existing {
            let mut resolver = "<nil>".to_owned();
            let mut found = None;
            for own in self.members() {
                match same(&member.peer_urls, &own.peer_urls) {
                    Ok(()) => {
                        found = Some(own);
                        break;
                    }
                    Err(error) => resolver = error,
                }
            }
            let Some(own) = found else {
                let urls = member.peer_urls.join(" ");
                return Err(BootstrapError::NoMatch { id: member.id, urls, resolver });
            };
            let adopted = Member { peer_urls: own.peer_urls.clone(), ..member.clone() };
            joined.members.insert(member.id, adopted);
        }
        Ok(joined)
    }
}

fn missing_from(left: &[String], right: &[String]) -> Vec<String> {
    left.iter().filter(|url| !right.contains(url)).cloned().collect()
}

/// The initial cluster as a flag would say it.
fn describe(initial: &[(String, Vec<String>)]) -> String {
    let mut pairs: Vec<String> =
        initial.iter().flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}"))).collect();
    pairs.sort_unstable();
    pairs.join(",")
}
