//! Where lines go: streams, files, rotated files, the systemd journal.
//!
//! Writes are whole lines. A write that fails is dropped: logging must not stop
//! the server, and there is nowhere to report it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::json::timestamp;
use super::{LogLevel, LogOutput, Rotation};

const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// One open output.
pub(super) enum Sink {
    Stderr,
    Stdout,
    Journal(UnixDatagram),
    Writer(Box<dyn Write + Send>),
    Rotated(RotatedFile),
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sink")
    }
}

impl Sink {
    pub(super) fn open(output: &LogOutput, rotation: Option<Rotation>) -> Result<Sink, String> {
        let failure = |path: &str, error: io::Error| {
            let why = match error.kind() {
                io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
                _ => error.to_string(),
            };
            format!("open sink {path:?}: open {path}: {why}")
        };
        match output {
            LogOutput::Stderr => Ok(Sink::Stderr),
            LogOutput::Stdout => Ok(Sink::Stdout),
            LogOutput::Journal => {
                let connected = UnixDatagram::unbound().and_then(|socket| {
                    socket.connect(JOURNAL_SOCKET)?;
                    Ok(socket)
                });
                // Without a journal standard error is the better place than nowhere.
                Ok(connected.map_or(Sink::Stderr, Sink::Journal))
            }
            LogOutput::File(path) => match rotation {
                Some(rotation) => RotatedFile::open(Path::new(path), rotation)
                    .map(Sink::Rotated)
                    .map_err(|e| failure(path, e)),
                None => open_append(Path::new(path))
                    .map(|file| Sink::Writer(Box::new(file)))
                    .map_err(|error| failure(path, error)),
            },
        }
    }

    pub(super) fn write(&mut self, level: LogLevel, line: &str) {
        let written = match self {
            Sink::Stderr => io::stderr().lock().write_all(line.as_bytes()),
            Sink::Stdout => io::stdout().lock().write_all(line.as_bytes()),
            Sink::Journal(socket) => socket.send(&journal_entry(level, line)).map(drop),
            Sink::Writer(writer) => writer.write_all(line.as_bytes()),
            Sink::Rotated(file) => file.write(line.as_bytes()),
        };
        drop(written);
    }
}

/// The journal's native protocol; the length form because a console line's
/// message may contain a line break.
fn journal_entry(level: LogLevel, line: &str) -> Vec<u8> {
    let priority = match level {
        LogLevel::Debug => 7,
        LogLevel::Info => 6,
        LogLevel::Warn => 4,
        LogLevel::Error => 3,
        LogLevel::Panic | LogLevel::Fatal => 2,
    };
    let line = line.trim_end_matches('\n');
    let mut entry = format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER=etcd\nMESSAGE\n").into_bytes();
    entry.extend((line.len() as u64).to_le_bytes());
    entry.extend(line.as_bytes());
    entry.push(b'\n');
    entry
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// A file that is renamed when it is full. Names of old files are those of the
/// rotation library etcd uses: `name-2006-01-02T15-04-05.000.ext`.
#[derive(Debug)]
pub(super) struct RotatedFile {
    path: PathBuf,
    file: File,
    size: u64,
    last_rotation: SystemTime,
    rotation: Rotation,
}

impl RotatedFile {
    pub(super) fn open(path: &Path, rotation: Rotation) -> io::Result<RotatedFile> {
        let file = open_append(path)?;
        let size = file.metadata()?.len();
        Ok(RotatedFile { path: path.to_owned(), file, size, last_rotation: SystemTime::UNIX_EPOCH, rotation })
    }

    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.size > 0 && self.size + length > self.rotation.size_bytes_max {
            self.rotate(SystemTime::now())?;
        }
        self.file.write_all(line)?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self, now: SystemTime) -> io::Result<()> {
        // Milliseconds name a file. Names must rise even when several rotations fall
        // into one: the oldest are removed by name.
        let mut at = now.max(self.last_rotation + Duration::from_millis(1));
        while self.backup_path(at).exists() {
            at += Duration::from_millis(1);
        }
        self.last_rotation = at;
        let target = self.backup_path(at);
        std::fs::rename(&self.path, target)?;
        self.file = open_append(&self.path)?;
        self.size = 0;
        self.remove_old(now)
    }

    fn parts(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned());
        let ext = text(self.path.extension()).map_or(String::new(), |ext| format!(".{ext}"));
        (format!("{}-", text(self.path.file_stem()).unwrap_or_default()), ext)
    }

    fn backup_path(&self, at: SystemTime) -> PathBuf {
        let stamp = timestamp(at).replace(':', "-");
        let stamp = &stamp[..23];
        let (prefix, ext) = self.parts();
        self.path.with_file_name(format!("{prefix}{stamp}{ext}"))
    }

    fn remove_old(&self, now: SystemTime) -> io::Result<()> {
        let (prefix, ext) = self.parts();
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut stamped: Vec<(String, PathBuf)> = std::fs::read_dir(directory)?
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let name = path.file_name()?.to_str()?;
                let stamp = name.strip_prefix(&prefix)?.strip_suffix(&ext)?;
                // Only what this rotation wrote may be deleted.
                let is_stamp =
                    stamp.len() == 23 && stamp.as_bytes()[10] == b'T' && stamp.starts_with(char::is_numeric);
                is_stamp.then(|| (stamp.to_owned(), path.clone()))
            })
            .collect();
        stamped.sort();
        let oldest_kept = match self.rotation.age_days_max {
            0 => String::new(),
            days => now
                .checked_sub(Duration::from_secs(days.saturating_mul(86_400)))
                .map_or(String::new(), |limit| timestamp(limit).replace(':', "-")),
        };
        let surplus = match self.rotation.backups_max {
            0 => 0,
            keep => stamped.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX)),
        };
        for (at, (stamp, path)) in stamped.iter().enumerate() {
            if at < surplus || stamp.as_str() < oldest_kept.as_str() {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}
