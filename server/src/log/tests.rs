//! Line shapes, levels and rotation.

use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use super::output::RotatedFile;
use super::*;

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(level: LogLevel, format: LogFormat, events: impl FnOnce()) -> Vec<String> {
    let buffer = Buffer::default();
    let layer = ZapLayer::to_writer(level, format, Box::new(buffer.clone()));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), events);
    let bytes = buffer.0.lock().expect("not poisoned").clone();
    String::from_utf8(bytes).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn json_line_has_zaps_shape() {
    let lines = logged(LogLevel::Info, LogFormat::Json, || {
        tracing::info!("local-member-id" = "8e9e", term = 2u64, "became \"leader\"");
        tracing::debug!("hidden");
    });
    assert_eq!(lines.len(), 1);
    let (head, tail) = lines[0].split_once(",\"caller\":").expect("has a caller");
    let ts =
        head.strip_prefix("{\"level\":\"info\",\"ts\":\"").expect(head).strip_suffix('"').expect("quoted");
    assert!(ts.len() == 27 && ts.ends_with('Z') && &ts[10..11] == "T", "{ts}");
    assert!(tail.starts_with("\"log/tests.rs:"), "{tail}");
    assert!(
        tail.ends_with("\"msg\":\"became \\\"leader\\\"\",\"local-member-id\":\"8e9e\",\"term\":2}"),
        "{tail}"
    );
    serde_json::from_str::<serde_json::Value>(&lines[0]).expect("is JSON");
}

#[test]
fn console_line_is_tab_separated() {
    let lines = logged(LogLevel::Debug, LogFormat::Console, || {
        tracing::warn!(took = "1s", "slow");
        tracing::debug!("plain");
    });
    let columns: Vec<&str> = lines[0].split('\t').collect();
    assert_eq!(
        (columns.len(), columns[1], columns[3], columns[4]),
        (5, "warn", "slow", "{\"took\": \"1s\"}")
    );
    assert_eq!(lines[1].split('\t').count(), 4);
}

#[test]
fn fatal_is_an_error_event_with_a_mark() {
    let lines = logged(LogLevel::Fatal, LogFormat::Json, || {
        tracing::error!("an error");
        tracing::error!(zap_level = "fatal", "the end");
    });
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("{\"level\":\"fatal\"") && lines[0].ends_with("\"msg\":\"the end\"}"));
}

#[test]
fn notices_keep_level_and_field_order() {
    let notice = Notice {
        level: LogLevel::Warn,
        msg: "m".to_owned(),
        fields: vec![("z", "1".to_owned()), ("a", "2".to_owned())],
    };
    let lines = logged(LogLevel::Info, LogFormat::Json, || write_notices(&[notice]));
    assert!(lines[0].starts_with("{\"level\":\"warn\""));
    assert!(lines[0].ends_with("\"msg\":\"m\",\"z\":\"1\",\"a\":\"2\"}"), "{}", lines[0]);
}

#[test]
fn timestamps_are_civil_utc() {
    for (seconds, want) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951_782_400, "2000-02-29T00:00:00.000000Z"),
        (1_672_531_199, "2022-12-31T23:59:59.000000Z"),
        (1_795_218_000, "2026-11-20T23:40:00.000000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
    ] {
        assert_eq!(json::timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), want);
    }
    assert!(json::timestamp(UNIX_EPOCH + Duration::from_micros(123_456)).ends_with(".123456Z"));
}

#[test]
fn full_file_is_rotated_and_old_ones_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("etcd.log");
    std::fs::write(dir.path().join("etcd-other.log"), "not ours").expect("writable");
    let rotation = Rotation { size_bytes_max: 10, age_days_max: 0, backups_max: 2 };
    let mut file = RotatedFile::open(&path, rotation).expect("opens");
    for n in 0..5 {
        file.write(format!("line {n}\n").as_bytes()).expect("writes");
    }
    assert_eq!(std::fs::read_to_string(&path).expect("exists"), "line 4\n");
    let mut old: Vec<String> = std::fs::read_dir(dir.path())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|p| p.to_string_lossy().contains("etcd-2"))
        .map(|p| std::fs::read_to_string(p).expect("readable"))
        .collect();
    old.sort();
    assert_eq!(old, ["line 2\n", "line 3\n"]);
    assert!(dir.path().join("etcd-other.log").exists());
}

#[test]
fn file_output_appends_and_a_bad_path_is_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.log").to_string_lossy().into_owned();
    let config = |path: &str| LogConfig {
        level: LogLevel::Info,
        format: LogFormat::Json,
        outputs: vec![LogOutput::parse(path)],
        rotation: None,
    };
    for _ in 0..2 {
        let layer = ZapLayer::open(&config(&path)).expect("opens");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || tracing::info!("x"));
    }
    assert_eq!(std::fs::read_to_string(&path).expect("exists").lines().count(), 2);
    let error = ZapLayer::open(&config("/nodir/x")).expect_err("no such directory");
    assert_eq!(error, "open sink \"/nodir/x\": open /nodir/x: no such file or directory");
}
