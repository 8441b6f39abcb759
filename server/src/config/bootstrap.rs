//! Checks of `initial-*` that apply only while the member has no data.
//!
//! etcd ignores these flags once a WAL exists, so a later edit of them is
//! harmless; they are therefore not checked at load. The server calls
//! `Config::bootstrap_cluster` when it is about to create or join a cluster.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};

use super::flags::quote;
use super::flags::quote_list;
use super::urls::{Url, parse_map};
use super::{ClusterState, Config, ConfigError};

/// Resolves a host name with the system's resolver; one attempt.
pub fn resolve_host(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0u16).to_socket_addrs()?.map(|addr| addr.ip()).collect())
}

impl Config {
    /// The first members by name, after etcd's checks of a new or joining
    /// member. Names are resolved only when the URLs differ as text; retrying
    /// for some seconds while a name does not resolve yet is the caller's.
    pub fn bootstrap_cluster(
        &self,
        resolve: &dyn Fn(&str) -> io::Result<Vec<IpAddr>>,
    ) -> Result<Vec<(String, Vec<Url>)>, ConfigError> {
        let members = parse_map(&self.initial_cluster).map_err(|why| {
            ConfigError::bare(format!("error setting up initial cluster: {why}")).note(self.given())
        })?;
        if let Some(url) = members.iter().flat_map(|(_, urls)| urls).find(|url| url.is_tls()) {
            return Err(ConfigError::bare(format!(
                "cairn does not support {url} in --initial-cluster: TLS is not implemented; use http URLs"
            )));
        }
        let Some((_, own)) = members.iter().find(|(name, _)| *name == self.name) else {
            let text = format!(
                "couldn't find local name {} in the initial cluster configuration",
                quote(&self.name)
            );
            return Err(ConfigError::bare(text).note(self.given()));
        };
        if self.initial_cluster_state == ClusterState::New {
            self.check_own_urls(own, resolve)?;
        }
        let mut seen = BTreeSet::new();
        if !members.iter().flat_map(|(_, urls)| urls).all(|url| seen.insert(url.to_string())) {
            return Err(ConfigError::bare(format!("initial cluster {} has duplicate url", pairs(&members))));
        }
        Ok(members)
    }

    fn given(&self) -> String {
        format!("--initial-cluster is {}", quote(&self.initial_cluster))
    }

    /// The URLs this member advertises must be those the cluster expects of it.
    fn check_own_urls(
        &self,
        own: &[Url],
        resolve: &dyn Fn(&str) -> io::Result<Vec<IpAddr>>,
    ) -> Result<(), ConfigError> {
        let texts = |urls: &[Url]| {
            let mut texts: Vec<String> = urls.iter().map(ToString::to_string).collect();
            texts.sort();
            texts
        };
        let (advertised, expected) = (texts(&self.initial_advertise_peer_urls), texts(own));
        if advertised == expected {
            return Ok(());
        }
        let Err(why) = same_endpoints(&self.initial_advertise_peer_urls, own, resolve) else {
            return Ok(());
        };
        let name = &self.name;
        let missing = |from: &[String], of: &[String], prefix: &str| -> String {
            from.iter()
                .filter(|url| !of.contains(url))
                .map(|url| format!("{prefix}{url}"))
                .collect::<Vec<_>>()
                .join(",")
        };
        let not_advertised = missing(&expected, &advertised, &format!("{name}="));
        let not_expected = missing(&advertised, &expected, "");
        let advertised_map = pairs(&[(name.clone(), self.initial_advertise_peer_urls.clone())]);
        Err(ConfigError::bare(if !not_advertised.is_empty() {
            format!(
                "--initial-cluster has {not_advertised} but missing from --initial-advertise-peer-urls={} ({why})",
                advertised.join(",")
            )
        } else if !not_expected.is_empty() {
            format!(
                "--initial-advertise-peer-urls has {not_expected} but missing from --initial-cluster={advertised_map}"
            )
        } else {
            format!(
                "failed to resolve {} to match --initial-cluster={advertised_map} ({why})",
                advertised.join(",")
            )
        }))
    }
}

/// Compares two URL lists after resolving names; the error is etcd's reason.
pub(crate) fn same_endpoints(
    a: &[Url],
    b: &[Url],
    resolve: &dyn Fn(&str) -> io::Result<Vec<IpAddr>>,
) -> Result<(), String> {
    if a.len() != b.len() {
        let list = |urls: &[Url]| {
            let texts: Vec<String> = urls.iter().map(ToString::to_string).collect();
            quote_list(texts.iter().map(String::as_str))
        };
        return Err(format!("len({}) != len({})", list(a), list(b)));
    }
    let resolved = |urls: &[Url]| -> Result<Vec<String>, String> {
        let mut texts = Vec::new();
        for url in urls {
            let mut url = url.clone();
            // etcd leaves localhost as it is: it may be either address family.
            if !url.is_unix() && url.host != "localhost" && url.ip().is_none() {
                let failure = |why: String| format!("failed to resolve host {} ({why})", url.host);
                let ips = resolve(&url.host).map_err(|error| failure(error.to_string()))?;
                let ip = ips.iter().find(|ip| ip.is_ipv4()).or(ips.first());
                url.host = ip.ok_or_else(|| failure("no address".to_owned()))?.to_string();
            }
            texts.push(url.to_string());
        }
        texts.sort();
        Ok(texts)
    };
    for (a, b) in resolved(a)?.iter().zip(&resolved(b)?) {
        if a != b {
            return Err(format!("resolved urls: {} != {}", quote(a), quote(b)));
        }
    }
    Ok(())
}

fn pairs(members: &[(String, Vec<Url>)]) -> String {
    let mut pairs: Vec<String> =
        members.iter().flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}"))).collect();
    pairs.sort();
    pairs.join(",")
}
