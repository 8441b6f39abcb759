//! URLs of listeners and members, and lists of them.
//!
//! Owns the part of Go's URL grammar that etcd's flags can reach and its error
//! texts, the list rules (comma separated, sorted, no duplicates) and
//! `name=url` maps. Never resolves a name: that is `validate`'s.
//! Invariant: `Url`'s text form is the one whose hash gives the member ID.

use std::fmt;
use std::net::IpAddr;

use super::flags::quote;

/// One URL that etcd accepts for a listener or a member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    /// `http`, `https`, `unix` or `unixs`, in lower case.
    pub scheme: String,
    /// Host name or address; an IPv6 address has no brackets here.
    pub host: String,
    /// The port's text; digits or empty.
    pub port: String,
    /// The path; only a `unix` URL can have one.
    pub path: String,
}

impl Url {
    /// Parses one URL.
    pub fn parse(text: &str) -> Result<Url, String> {
        let text = text.trim();
        let (scheme, authority, path) =
            split(text).map_err(|(url, why)| format!("parse {}: {why}", quote(url)))?;
        let unix = matches!(scheme.as_str(), "unix" | "unixs");
        if !unix && !matches!(scheme.as_str(), "http" | "https") {
            return Err(format!("URL scheme must be http, https, unix, or unixs: {text}"));
        }
        let (host, port) = match split_host_port(&authority) {
            Some(pair) => pair,
            None if unix && !(authority.is_empty() && path.is_empty()) => (authority, String::new()),
            None => return Err(format!("URL address does not have the form \"host:port\": {text}")),
        };
        if !unix && !path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        Ok(Url { scheme, host, port, path })
    }

    /// Whether traffic on this URL would be encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme.as_str(), "https" | "unixs")
    }

    /// Whether this names a unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self.scheme.as_str(), "unix" | "unixs")
    }

    /// The port's number, when it is one.
    pub fn port_number(&self) -> Option<u16> {
        self.port.parse().ok()
    }

    /// The host as an address, when it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// `host:port`, with brackets round an IPv6 address.
    pub fn host_port(&self) -> String {
        if self.is_unix() && self.port.is_empty() {
            self.host.clone()
        } else if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.host_port(), self.path)
    }
}

/// Parses a comma-separated list; the result is sorted and without duplicates.
/// An empty text is an empty list.
pub fn parse_list(text: &str) -> Result<Vec<Url>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
    urls.sort_by_key(ToString::to_string);
    urls.dedup();
    Ok(urls)
}

/// Parses `name=url,name2=url2`; a repeated name gathers several URLs. The
/// result is sorted by name.
pub(super) fn parse_map(text: &str) -> Result<Vec<(String, Vec<Url>)>, String> {
    let mut map = std::collections::BTreeMap::<String, Vec<Url>>::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        if name.is_empty() {
            return Err(format!("empty member name in {}", quote(pair)));
        }
        map.entry(name.to_owned()).or_default().push(Url::parse(url)?);
    }
    for urls in map.values_mut() {
        urls.sort_by_key(ToString::to_string);
    }
    Ok(map.into_iter().collect())
}

/// The list as etcd prints it.
pub fn join(urls: &[Url]) -> String {
    urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Scheme, authority without user, path. The error carries the text without
/// its fragment because that is what Go prints.
fn split(text: &str) -> Result<(String, String, String), (&str, String)> {
    let url = text.split_once('#').map_or(text, |(before, _)| before);
    let fail = |why: &str| Err((url, why.to_owned()));
    if url.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return fail("net/url: invalid control character in URL");
    }
    let (scheme, rest) = match url.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)) {
        Some(0) if url.starts_with(':') => return fail("missing protocol scheme"),
        Some(end) if url.as_bytes()[end] == b':' && url.as_bytes()[0].is_ascii_alphabetic() => {
            (url[..end].to_ascii_lowercase(), &url[end + 1..])
        }
        _ => (String::new(), url),
    };
    let rest = rest.split_once('?').map_or(rest, |(before, _)| before);
    if !rest.starts_with('/') {
        let first_segment = rest.split('/').next().unwrap_or("");
        if scheme.is_empty() && first_segment.contains(':') {
            return fail("first path segment in URL cannot contain colon");
        }
        return Ok((
            scheme,
            String::new(),
            if first_segment.is_empty() { String::new() } else { rest.to_owned() },
        ));
    }
    let Some(after) = rest.strip_prefix("//") else {
        return Ok((scheme, String::new(), rest.to_owned()));
    };
    let slash = after.find('/').unwrap_or(after.len());
    let (authority, path) = after.split_at(slash);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    check_host(host).map_err(|why| (url, why))?;
    Ok((scheme, host.to_owned(), path.to_owned()))
}

fn check_host(host: &str) -> Result<(), String> {
    let port = if host.starts_with('[') {
        let Some(end) = host.rfind(']') else {
            return Err("missing ']' in host".to_owned());
        };
        &host[end + 1..]
    } else {
        host.rfind(':').map_or("", |at| &host[at..])
    };
    let legal = port.is_empty()
        || port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    if !legal {
        return Err(format!("invalid port {} after host", quote(port)));
    }
    for (at, c) in host.char_indices() {
        if c == '%' {
            let end = (at + 3).min(host.len());
            return Err(format!("invalid URL escape {}", quote(host.get(at..end).unwrap_or("%"))));
        }
        if c.is_ascii() && !c.is_ascii_alphanumeric() && !"!$&'()*+,;=:[]<>\"-_.~".contains(c) {
            return Err(format!("invalid character {} in host name", quote(&c.to_string())));
        }
    }
    Ok(())
}

fn split_host_port(authority: &str) -> Option<(String, String)> {
    if let Some(inner) = authority.strip_prefix('[') {
        let (host, rest) = inner.split_once(']')?;
        return Some((host.to_owned(), rest.strip_prefix(':')?.to_owned()));
    }
    let (host, port) = authority.rsplit_once(':')?;
    if host.contains(':') || host.contains('[') || host.contains(']') {
        return None;
    }
    Some((host.to_owned(), port.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_match_go() {
        for (text, want) in [
            ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
            ("ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
            ("http://a", "URL address does not have the form \"host:port\": http://a"),
            ("http://::1:2379", "URL address does not have the form \"host:port\": http://::1:2379"),
            ("http://", "URL address does not have the form \"host:port\": http://"),
            ("http://127.0.0.1:1/", "URL must not contain a path: http://127.0.0.1:1/"),
            ("http://a:b", "parse \"http://a:b\": invalid port \":b\" after host"),
            ("http://1.1.1.1:1 # x", "parse \"http://1.1.1.1:1 \": invalid port \":1 \" after host"),
            ("127.0.0.1:2379", "parse \"127.0.0.1:2379\": first path segment in URL cannot contain colon"),
            ("localhost:1", "URL scheme must be http, https, unix, or unixs: localhost:1"),
            ("http://a b:1", "parse \"http://a b:1\": invalid character \" \" in host name"),
            ("http://[::1", "parse \"http://[::1\": missing ']' in host"),
            (":", "parse \":\": missing protocol scheme"),
        ] {
            assert_eq!(Url::parse(text), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn accepted_urls_keep_their_text() {
        for text in [
            "http://127.0.0.1:2379",
            "http://[::1]:2379",
            "https://a.b:1",
            "unix://localhost:1",
            "unix:///a/b",
        ] {
            assert_eq!(Url::parse(text).expect(text).to_string(), text);
        }
        assert_eq!(Url::parse("HTTP://a:1").expect("legal").to_string(), "http://a:1");
    }

    #[test]
    fn lists_are_sorted_and_unique() {
        let urls = parse_list("http://b:1, http://a:1,http://b:1").expect("legal");
        assert_eq!(join(&urls), "http://a:1,http://b:1");
        assert!(parse_list("http://a:1,").is_err());
        assert!(parse_list("").expect("legal").is_empty());
    }

    #[test]
    fn maps_gather_repeated_names() {
        let map = parse_map("b=http://b:1, a=http://a:2,a=http://a:1").expect("legal");
        assert_eq!(map[0].0, "a");
        assert_eq!(join(&map[0].1), "http://a:1,http://a:2");
        assert_eq!(map[1].0, "b");
        assert!(parse_map("x").is_err());
    }
}
