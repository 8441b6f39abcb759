//! The expected texts, ids and orders of checks come from runs of etcd 3.4.23.

use super::*;

fn strings(urls: &[&str]) -> Vec<String> {
    urls.iter().map(|&url| url.to_owned()).collect()
}

fn urls_of(id: MemberId) -> Vec<String> {
    vec![format!("http://h{id}:1")]
}

/// A member whose only URL says its id.
fn member(id: MemberId, started: bool, is_learner: bool) -> Member {
    let name = if started { format!("n{id}") } else { String::new() };
    Member { id, name, peer_urls: urls_of(id), client_urls: Vec::new(), is_learner }
}

fn cluster(members: &[(MemberId, bool, bool)]) -> Cluster {
    let mut cluster = Cluster { id: 9, ..Cluster::default() };
    for &(id, started, learner) in members {
        cluster.members.insert(id, member(id, started, learner));
    }
    cluster
}

const STARTED: [(MemberId, bool, bool); 3] = [(1, true, false), (2, true, false), (3, true, false)];

#[test]
fn ids_are_those_of_etcd() {
    for (url, member, cluster) in [
        ("http://localhost:2380", 0x8e9e_05c5_2164_694d, 0xcdf8_1819_4e3a_8c32),
        ("http://127.0.0.1:33380", 0x5c76_a90a_e78b_cee7, 0x536f_0188_ef20_75ac),
        ("http://127.0.0.1:24380", 0xb517_9d13_d028_5315, 0x534a_021c_215e_0774),
    ] {
        assert_eq!(member_id(&strings(&[url]), "etcd-cluster", None), member);
        assert_eq!(cluster_id([member].into_iter()), cluster);
    }
    // An addition at run time, seen from a real cluster: no token, the time in seconds.
    let added = member_id(&strings(&["http://y:2", "http://x:9"]), "", Some(1_795_218_494));
    assert_eq!(added, 0x0f50_31f9_a26f_3c56);
}

#[test]
fn cluster_id_ignores_the_order_of_members() {
    assert_eq!(cluster_id([3, 1, 2].into_iter()), cluster_id([1, 2, 3].into_iter()));
    assert_ne!(cluster_id([1, 2].into_iter()), cluster_id([1, 2, 3].into_iter()));
}

#[test]
fn urls_are_judged_as_by_etcd() {
    let scheme = "URL scheme must be http, https, unix, or unixs: ";
    let host_port = "URL address does not have the form \"host:port\": ";
    let path = "URL must not contain a path: ";
    for (url, error) in [
        ("foo", format!("{scheme}foo")),
        ("", scheme.to_owned()),
        ("ftp://a:1", format!("{scheme}ftp://a:1")),
        ("localhost:2380", format!("{scheme}localhost:2380")),
        ("//a:1", format!("{scheme}//a:1")),
        ("http", format!("{scheme}http")),
        ("/x:y", format!("{scheme}/x:y")),
        ("http://foo", format!("{host_port}http://foo")),
        ("http:a:1", format!("{host_port}http:a:1")),
        ("http://[::1]", format!("{host_port}http://[::1]")),
        ("http://::1:80", format!("{host_port}http://::1:80")),
        ("unix://x", format!("{host_port}unix://x")),
        ("unix:///a:b", format!("{host_port}unix:///a:b")),
        ("http://foo:1/", format!("{path}http://foo:1/")),
        ("http://foo:1/path", format!("{path}http://foo:1/path")),
        ("unixs://x:y", "parse \"unixs://x:y\": invalid port \":y\" after host".to_owned()),
        ("http://a:%zz", "parse \"http://a:%zz\": invalid port \":%zz\" after host".to_owned()),
        ("http://a b:1", "parse \"http://a b:1\": invalid character \" \" in host name".to_owned()),
        ("http://[::1", "parse \"http://[::1\": missing ']' in host".to_owned()),
        ("http://a%41:1", "parse \"http://a%41:1\": invalid URL escape \"%41\"".to_owned()),
        ("127.0.0.1:80", "parse \"127.0.0.1:80\": first path segment in URL cannot contain colon".to_owned()),
        ("http://u b@a:1", "parse \"http://u b@a:1\": net/url: invalid userinfo".to_owned()),
        ("http://a\tb:1", "parse \"http://a\\tb:1\": net/url: invalid control character in URL".to_owned()),
        (":80", "parse \":80\": missing protocol scheme".to_owned()),
    ] {
        assert_eq!(parse_urls(&[url]).map_err(|error| error.to_string()), Err(error), "{url}");
    }
    assert_eq!(parse_urls::<&str>(&[]), Err(UrlError::Empty));
}

#[test]
fn urls_become_canonical() {
    for (given, canonical) in [
        (vec!["http://b:2", "http://a:1"], vec!["http://a:1", "http://b:2"]),
        (vec![" http://a:1 "], vec!["http://a:1"]),
        (vec!["HTTP://a:1"], vec!["http://a:1"]),
        (vec!["http://a:1", "http://a:1"], vec!["http://a:1", "http://a:1"]),
        (vec!["http://:80"], vec!["http://:80"]),
        (vec!["http://a:"], vec!["http://a:"]),
        (vec!["http://a:99999"], vec!["http://a:99999"]),
        (vec!["http://[::1]:2380"], vec!["http://[::1]:2380"]),
        (vec!["http://u@a:1?q=1#f"], vec!["http://u@a:1?q=1#f"]),
        (vec!["unix://localhost:1"], vec!["unix://localhost:1"]),
    ] {
        assert_eq!(parse_urls(&given), Ok(strings(&canonical)));
    }
}

#[test]
fn an_initial_cluster_merges_repeated_names() {
    let parsed = parse_initial_cluster("b=http://x:3,a=http://x:2,a=http://x:1,").unwrap();
    let expected = vec![
        ("a".to_owned(), strings(&["http://x:1", "http://x:2"])),
        ("b".to_owned(), strings(&["http://x:3"])),
    ];
    assert_eq!(parsed, expected);
    assert_eq!(parse_initial_cluster(",").unwrap(), vec![]);
    let error = parse_initial_cluster("foo").unwrap_err().to_string();
    assert_eq!(error, "URL scheme must be http, https, unix, or unixs: ");
}

#[test]
fn strict_addition_of_a_voter_needs_a_started_quorum() {
    let add = MemberChange::Add(member(7, false, false));
    let refused = Err(Error::MemberNotEnoughStarted);
    for (members, expected) in [
        (vec![(1, true, false)], Ok(())),
        (vec![(1, true, false), (2, false, false)], refused.clone()),
        (vec![(1, true, false), (2, true, false)], Ok(())),
        (STARTED.to_vec(), Ok(())),
        (vec![(1, true, false), (2, true, false), (3, false, false)], refused.clone()),
        (vec![(1, true, false), (2, true, false), (3, true, false), (4, false, false)], Ok(())),
        (vec![(1, true, false), (2, true, false), (3, false, false), (4, false, false)], refused),
        // Learners do not count.
        (vec![(1, true, false), (2, false, true)], Ok(())),
    ] {
        let cluster = cluster(&members);
        assert_eq!(cluster.validate(&add, true, 1), expected, "{members:?}");
        assert_eq!(cluster.validate(&add, false, 1), Ok(()), "{members:?}");
    }
}

#[test]
fn strict_removal_leaves_a_started_quorum() {
    let refused = Err(Error::MemberNotEnoughStarted);
    let partial = [(1, true, false), (2, true, false), (3, false, false), (4, false, true)];
    let partial = cluster(&partial);
    assert_eq!(partial.validate(&MemberChange::Remove(1), true, 1), refused);
    assert_eq!(partial.validate(&MemberChange::Remove(1), false, 1), Ok(()));
    assert_eq!(partial.validate(&MemberChange::Remove(3), true, 1), Ok(()));
    assert_eq!(partial.validate(&MemberChange::Remove(4), true, 1), Ok(()));
    assert_eq!(partial.validate(&MemberChange::Remove(77), false, 1), Err(Error::MemberNotFound));
    assert_eq!(cluster(&STARTED).validate(&MemberChange::Remove(77), true, 1), Err(Error::MemberNotFound));
}

#[test]
fn the_last_voter_stays() {
    let mut cluster = cluster(&[(1, true, false), (2, true, true)]);
    for strict in [false, true] {
        let verdict = cluster.validate(&MemberChange::Remove(1), strict, 1);
        assert_eq!(verdict, Err(Error::MemberNotEnoughStarted));
    }
    assert_eq!(cluster.apply(&MemberChange::Remove(1)), Err(Error::MemberNotEnoughStarted));
    assert_eq!(cluster.members().len(), 2);
}

#[test]
fn an_addition_is_refused_for_its_urls_its_id_or_too_many_learners() {
    let mut cluster = cluster(&STARTED);
    let add = |id, urls: &[&str], is_learner| {
        MemberChange::Add(Member { id, peer_urls: strings(urls), is_learner, ..Member::default() })
    };
    for (change, error) in [
        (add(7, &["foo"], false), Error::MemberBadUrls),
        (add(7, &[], true), Error::MemberBadUrls),
        (add(7, &["http://new:1", "http://h2:1"], false), Error::PeerUrlExists),
        (add(7, &["HTTP://h2:1"], false), Error::PeerUrlExists),
        (add(2, &["http://new:1"], false), Error::MemberExists),
    ] {
        assert_eq!(cluster.validate(&change, true, 1), Err(error.clone()), "{change:?}");
        assert_eq!(cluster.apply(&change), Err(error), "{change:?}");
    }
    let learner = add(7, &["http://new:1"], true);
    assert_eq!(cluster.validate(&learner, true, 0), Err(Error::TooManyLearners));
    assert_eq!(cluster.validate(&learner, true, 1), Ok(()));
    cluster.apply(&learner).unwrap();
    assert_eq!(cluster.validate(&add(8, &["http://newer:1"], true), true, 1), Err(Error::TooManyLearners));
    assert_eq!(cluster.validate(&add(8, &["http://new:1"], true), true, 1), Err(Error::PeerUrlExists));
}

#[test]
fn a_removed_id_never_returns() {
    let mut cluster = cluster(&STARTED);
    let rows = cluster.apply(&MemberChange::Remove(3)).unwrap();
    let key = Bytes::copy_from_slice(&3u64.to_be_bytes());
    assert_eq!(rows, vec![(Table::Members, key.clone(), None), (Table::Removed, key, Some(Bytes::new()))]);
    assert!(cluster.is_removed(3));
    for change in [
        MemberChange::Add(member(3, false, false)),
        MemberChange::Update(3, urls_of(4)),
        MemberChange::Promote(3),
        MemberChange::Remove(3),
    ] {
        assert_eq!(cluster.validate(&change, false, 1), Err(Error::MemberNotFound), "{change:?}");
        assert_eq!(cluster.apply(&change), Err(Error::MemberNotFound), "{change:?}");
    }
    assert_eq!(cluster.publish(3, "ghost", &[]), vec![]);
    assert_eq!(cluster.member(3), None);
}

#[test]
fn an_update_changes_peer_urls_and_nothing_else() {
    let mut cluster = cluster(&[(1, true, false), (2, true, true)]);
    for (id, urls, error) in [
        (2, vec!["foo"], Error::MemberBadUrls),
        (2, vec![], Error::MemberBadUrls),
        (2, vec!["http://h1:1"], Error::PeerUrlExists),
        (77, vec!["http://h1:1"], Error::MemberNotFound),
    ] {
        let change = MemberChange::Update(id, strings(&urls));
        assert_eq!(cluster.validate(&change, true, 1), Err(error.clone()));
        assert_eq!(cluster.apply(&change), Err(error));
    }
    let before = cluster.member(2).unwrap().clone();
    let rows = cluster.apply(&MemberChange::Update(2, strings(&["http://z:1", "http://h2:1"]))).unwrap();
    let after = Member { peer_urls: strings(&["http://z:1", "http://h2:1"]), ..before };
    assert_eq!(cluster.member(2), Some(&after));
    assert!(after.is_learner);
    let stored = rows[0].2.as_ref().unwrap();
    assert_eq!(decode_member(stored), Ok(after));
}

#[test]
fn only_a_started_learner_is_promoted() {
    let mut cluster = cluster(&[(1, true, false), (2, false, true)]);
    assert_eq!(cluster.validate(&MemberChange::Promote(1), true, 1), Err(Error::MemberNotLearner));
    assert_eq!(cluster.validate(&MemberChange::Promote(77), true, 1), Err(Error::MemberNotFound));
    assert_eq!(cluster.validate(&MemberChange::Promote(2), true, 1), Err(Error::LearnerNotReady));
    cluster.publish(2, "b", &strings(&["http://c:1"]));
    assert_eq!(cluster.validate(&MemberChange::Promote(2), true, 1), Ok(()));
    cluster.apply(&MemberChange::Promote(2)).unwrap();
    assert_eq!(cluster.voters().map(|member| member.id).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(cluster.learners().count(), 0);
    assert_eq!(cluster.member(2).unwrap().client_urls, ["http://c:1"]);
}

#[test]
fn strict_promotion_counts_the_learner_as_started() {
    let refused = Err(Error::MemberNotEnoughStarted);
    for (members, expected) in [
        (vec![(1, true, false), (9, true, true)], Ok(())),
        (vec![(1, true, false), (2, false, false), (9, true, true)], Ok(())),
        (vec![(1, true, false), (2, false, false), (3, false, false), (9, true, true)], refused),
    ] {
        assert_eq!(cluster(&members).validate(&MemberChange::Promote(9), true, 1), expected);
    }
}

#[test]
fn stored_rows_rebuild_the_same_state() {
    let mut cluster = cluster(&STARTED);
    let mut stored: BTreeMap<(Table, Bytes), Bytes> = BTreeMap::new();
    let mut store = |rows: Vec<RowChange>| {
        for (table, key, value) in rows {
            match value {
                Some(value) => stored.insert((table, key), value),
                None => stored.remove(&(table, key)),
            };
        }
    };
    store(cluster.rows());
    store(cluster.apply(&MemberChange::Add(member(7, false, true))).unwrap());
    store(cluster.apply(&MemberChange::Remove(2)).unwrap());
    store(cluster.publish(7, "seven", &strings(&["http://c:7"])));
    store(cluster.apply(&MemberChange::Promote(7)).unwrap());
    store(cluster.set_version("3.4.0"));
    stored.insert((Table::Meta, Bytes::from_static(b"other")), Bytes::from_static(b"\xff"));
    let rows = stored.into_iter().map(|((table, key), value)| (table, key, value));
    let loaded = Cluster::load(9, rows).unwrap();
    assert_eq!(loaded, cluster);
    assert_eq!(loaded.version(), Some("3.4.0"));
}

#[test]
fn damaged_rows_are_refused() {
    let good = encode_member(&member(7, true, false));
    let key = id_key(7);
    let load = |table, key: &Bytes, value: &[u8]| {
        Cluster::load(9, [(table, key.clone(), Bytes::copy_from_slice(value))]).map(|_| ())
    };
    assert_eq!(load(Table::Members, &key, &good), Ok(()));
    assert!(load(Table::Members, &key, &good[..good.len() - 1]).is_err());
    assert!(load(Table::Members, &key, &[&good[..], &[0]].concat()).is_err());
    assert!(load(Table::Members, &key, &[]).is_err());
    assert_eq!(load(Table::Members, &key, &[2]), Err("member format 2, this version reads 1".to_owned()));
    assert!(load(Table::Members, &id_key(8), &good).is_err());
    assert!(load(Table::Removed, &Bytes::from_static(b"short"), &[]).is_err());
}

#[test]
fn bootstrap_errors_have_etcds_texts() {
    let initial = |text: &str| Cluster::from_initial("t", &parse_initial_cluster(text).unwrap());
    let text = |error: BootstrapError| error.to_string();
    assert_eq!(text(initial("").unwrap_err()), "initial cluster unset and no discovery URL found");
    assert_eq!(
        text(initial("b=http://x:1,a=http://x:1").unwrap_err()),
        "initial cluster a=http://x:1,b=http://x:1 has duplicate url"
    );
    let cluster = initial("a=http://x:1,a=http://x:2,b=http://x:3").unwrap();
    assert_eq!(cluster.voters().count(), 2);
    let same = |left: &[String], right: &[String]| {
        if left == right { Ok(()) } else { Err("differ".to_owned()) }
    };
    let local = |name, urls: &[&str]| cluster.local(name, &strings(urls), same).map(|found| found.id);
    assert_eq!(
        local("a", &["http://x:2", "http://x:1"]),
        Ok(member_id(&strings(&["http://x:1", "http://x:2"]), "t", None))
    );
    assert_eq!(
        text(local("c", &["http://x:1"]).unwrap_err()),
        "couldn't find local name \"c\" in the initial cluster configuration"
    );
    assert_eq!(
        text(local("a", &["http://x:2"]).unwrap_err()),
        "--initial-cluster has a=http://x:1 but missing from --initial-advertise-peer-urls=http://x:2 (differ)"
    );
    assert_eq!(
        text(local("b", &["http://x:5", "http://x:3"]).unwrap_err()),
        "--initial-advertise-peer-urls has http://x:5 but missing from --initial-cluster=b=http://x:3,b=http://x:5"
    );
}

#[test]
fn joining_adopts_the_ids_of_the_running_cluster() {
    let same = |left: &[String], right: &[String]| {
        if left == right { Ok(()) } else { Err("differ".to_owned()) }
    };
    let own = Cluster::from_initial("t", &parse_initial_cluster("a=http://h1:1,b=http://h2:1").unwrap());
    let own = own.unwrap();
    let existing = [member(1, true, false), member(2, false, true)];
    let joined = own.join(9, &existing, same).unwrap();
    assert_eq!(joined, cluster(&[(1, true, false), (2, false, true)]));
    let unequal = own.join(9, &existing[..1], same).unwrap_err();
    assert_eq!(unequal.to_string(), "member count is unequal");
    let other = own.join(9, &[member(1, true, false), member(0x3f, true, false)], same).unwrap_err();
    assert_eq!(
        other.to_string(),
        "PeerURLs: no match found for existing member (3f, [http://h63:1]), last resolver error (differ)"
    );
}
