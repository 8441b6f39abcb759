//! Peer URLs and `--initial-cluster`: parsing and validation, with etcd's texts (C-05, A-C-02).
//!
//! The accepted language is what Go's `net/url` accepts, further limited by etcd: one of four
//! schemes, `host:port`, no path. It never resolves a name.
//!
//! Invariant: the strings that leave here are canonical (trimmed, scheme in lower case, sorted), so
//! two members that were given the same list derive the same member id from it.

use std::collections::BTreeMap;

/// Why a list of URLs was refused; the texts are those that etcd and etcdctl print.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The list was empty.
    #[error("no valid URLs given")]
    Empty,
    /// Not a URL at all.
    #[error("parse {url:?}: {reason}")]
    Parse {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A scheme that etcd does not speak.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    /// A host without a port, or neither.
    #[error("URL address does not have the form \"host:port\": {0}")]
    HostPort(String),
    /// Something after the port.
    #[error("URL must not contain a path: {0}")]
    Path(String),
}

/// Validates and canonicalises a list of URLs. Duplicates stay, as in etcd.
///
/// # Errors
/// The first URL that is not acceptable, or an empty list.
pub fn parse_urls<S: AsRef<str>>(urls: &[S]) -> Result<Vec<String>, UrlError> {
    if urls.is_empty() {
        return Err(UrlError::Empty);
    }
    let mut out = urls.iter().map(|url| parse_url(url.as_ref().trim())).collect::<Result<Vec<_>, _>>()?;
    out.sort_unstable();
    Ok(out)
}

/// Reads `name=url,name=url`. A name that occurs again adds a URL to that member; empty items are
/// skipped. The result is in order of name.
///
/// # Errors
/// The first member (in order of name) with a URL that is not acceptable.
pub fn parse_initial_cluster(text: &str) -> Result<Vec<(String, Vec<String>)>, UrlError> {
    let mut members: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (name, url) = item.split_once('=').unwrap_or((item, ""));
        members.entry(name).or_default().push(url);
    }
    members.into_iter().map(|(name, urls)| Ok((name.to_owned(), parse_urls(&urls)?))).collect()
}

fn parse_url(url: &str) -> Result<String, UrlError> {
    let fail = |reason: String| UrlError::Parse { url: url.to_owned(), reason };
    if url.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return Err(fail("net/url: invalid control character in URL".to_owned()));
    }
    let (scheme, rest) = split_scheme(url).map_err(|reason| fail(reason.to_owned()))?;
    let Some(after) = rest.strip_prefix("//") else {
        // Without an authority: a path, or opaque data after the scheme.
        if scheme.is_empty() && rest.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err(fail("first path segment in URL cannot contain colon".to_owned()));
        }
        return Err(if is_known(&scheme) {
            UrlError::HostPort(url.to_owned())
        } else {
            UrlError::Scheme(url.to_owned())
        });
    };
    let end = after.find(['/', '?', '#']).unwrap_or(after.len());
    let (authority, tail) = after.split_at(end);
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if !user.chars().all(|c| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c)) {
        return Err(fail("net/url: invalid userinfo".to_owned()));
    }
    check_host(host).map_err(fail)?;
    if !is_known(&scheme) {
        return Err(UrlError::Scheme(url.to_owned()));
    }
    if !is_host_port(host) {
        return Err(UrlError::HostPort(url.to_owned()));
    }
    if tail.starts_with('/') {
        return Err(UrlError::Path(url.to_owned()));
    }
    // Go drops a fragment mark with nothing behind it when it prints the URL again.
    let tail = tail.strip_suffix('#').unwrap_or(tail);
    Ok(format!("{scheme}://{authority}{tail}"))
}

fn is_known(scheme: &str) -> bool {
    matches!(scheme, "http" | "https" | "unix" | "unixs")
}

/// Splits off the scheme, in lower case; empty when there is none.
fn split_scheme(url: &str) -> Result<(String, &str), &'static str> {
    for (at, byte) in url.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme"),
            b':' => return Ok((url[..at].to_ascii_lowercase(), &url[at + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), url))
}

/// What Go's parser refuses in a host.
fn check_host(host: &str) -> Result<(), String> {
    let port = if host.starts_with('[') {
        let close = host.rfind(']').ok_or("missing ']' in host")?;
        &host[close + 1..]
    } else {
        host.rfind(':').map_or("", |colon| &host[colon..])
    };
    let digits = port.strip_prefix(':');
    let valid = port.is_empty() || digits.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    if !valid {
        return Err(format!("invalid port \"{port}\" after host"));
    }
    let bad = |c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && !"-_.~!$&'()*+,;=:[]<>\"%".contains(c);
    if let Some(c) = host.chars().find(|&c| bad(c)) {
        return Err(format!("invalid character \"{c}\" in host name"));
    }
    // A host name may hold no escapes of ASCII; only an IPv6 zone may hold a percent sign.
    if let Some(at) = host.find('%')
        && !(host.starts_with('[') && host[at..].starts_with("%25"))
    {
        let escape: String = host[at..].chars().take(3).collect();
        return Err(format!("invalid URL escape \"{escape}\""));
    }
    Ok(())
}

/// Go's `net.SplitHostPort`, as a predicate: either part may be empty, the colon may not.
fn is_host_port(host: &str) -> bool {
    let Some((name, _)) = host.rsplit_once(':') else { return false };
    match name.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').is_some_and(|ip| !ip.contains(['[', ']'])),
        None => !name.contains([':', '[', ']']),
    }
}
