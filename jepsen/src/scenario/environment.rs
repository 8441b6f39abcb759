//! A full disk, damaged files, a directory in use: what the server says and what it keeps.
//!
//! The messages are printed for any binary; the contract is asserted for Cairn only, since etcd
//! checks less of its files when it starts. What holds for both: nothing that was acknowledged is
//! gone once the environment is in order again.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::{Client, Event, Outcome, prefix_range};
use crate::cluster::EVENTUALLY;
use crate::process::{Binary, POLL, Server};
use crate::{Failure, Figures};

const PREFIX: &str = "env/";

/// How long a start on damaged files may take to fail or to succeed.
const VERDICT: Duration = Duration::from_secs(20);

/// The flags of `environment`.
#[derive(Clone, Debug, clap::Args)]
pub struct Environment {
    /// The size of the disk that is filled.
    #[arg(long, default_value_t = 192)]
    pub disk_mib: u64,
    /// How much is written before files are damaged: enough for a closed log segment.
    #[arg(long, default_value_t = 80)]
    pub written_mib: usize,
}

/// What a start on files that are not in order led to.
enum Start {
    /// The process ended by itself, after these lines.
    Failed { code: Option<i32>, said: String },
    /// It is healthy.
    Healthy,
    /// Neither within the time.
    Undecided,
}

/// What reads of damaged data led to; each is the first of its kind.
struct Reads {
    /// A key whose value is another than what was written, or none.
    wrong: Option<String>,
    /// A key that could not be read, and what the server said.
    failed: Option<(String, String)>,
}

impl Environment {
    /// Runs the scenario.
    ///
    /// # Errors
    /// An acknowledged write is gone or, for Cairn, a message does not say what it should.
    pub async fn run(&self, binary: &Binary) -> Result<Figures, Failure> {
        let mut checks = vec![
            ("a directory in use", self.second_process(binary).await),
            ("a full disk", self.full_disk(binary).await),
            ("a damaged log", self.damaged_log(binary).await),
        ];
        for (what, damage) in [
            ("a byte of a value in db", damage_value as Damage),
            ("the first byte of db", damage_header),
            ("the second half of db cut off", cut_in_half),
        ] {
            checks.push((what, self.damaged_database(binary, what, damage).await));
        }
        // Each stands alone, so all that fail are told at once.
        let mut figures = Figures::default();
        let mut failed = Vec::new();
        for (what, outcome) in checks {
            match outcome {
                Ok(more) => figures.extend(more),
                Err(failure) => failed.push((what, failure)),
            }
        }
        if failed.is_empty() {
            return Ok(figures);
        }
        let names: Vec<&str> = failed.iter().map(|(what, _)| *what).collect();
        let failure =
            Failure::new(format!("{} of the environment's checks: {}", failed.len(), names.join("; ")));
        let failure = failure.note(format!("what held:\n{figures}"));
        Err(failed.into_iter().fold(failure, |all, (what, one)| all.note(format!("==== {what}: {one}"))))
    }

    async fn second_process(&self, binary: &Binary) -> Result<Figures, Failure> {
        let mut home = Home::new(binary)?;
        home.start().await?;
        let mut second = Server::new(binary, home.root.path(), "second");
        second.data.clone_from(&home.server.data);
        second.configure(&format!("second={}", second.peer_url), "new", &[]);
        second.start()?;
        let start = verdict(&mut second).await;
        let mut figures = Figures::default();
        describe(&mut figures, "a second process on the directory", &start);
        let folder = home.server.data.to_string_lossy().into_owned();
        match &start {
            Start::Failed { code, said } if *code != Some(0) && said.contains(&folder) => {}
            _ if !binary.cairn => {}
            _ => return Err(home.explain("the second process must end and name the directory", &figures)),
        }
        second.kill();
        home.server.healthy(VERDICT).await?;
        Ok(figures)
    }

    async fn full_disk(&self, binary: &Binary) -> Result<Figures, Failure> {
        let mut figures = Figures::default();
        let mut home = Home::new(binary)?;
        let Some(mount) = Mount::tmpfs(&home.server.data, self.disk_mib)? else {
            figures.add("full disk", "left out: mounting a small file system takes root");
            return Ok(figures);
        };
        home.mount = Some(mount);
        home.start().await?;
        let value = "x".repeat(256 << 10);
        let mut acked = 0;
        let mut refusal = None;
        // Twice the disk: it has to fill up before.
        for number in 0..self.disk_mib * 8 {
            match home.client().put(&format!("{PREFIX}{number:06}"), &format!("{number:06}{value}")).await {
                Outcome::Ok(_) => acked = number + 1,
                Outcome::Refused(error) | Outcome::Unknown(error) => {
                    refusal = Some(error);
                    break;
                }
            }
        }
        let refusal = refusal.ok_or_else(|| home.explain("the disk never became full", &figures))?;
        figures.add("full disk: acknowledged before, then", format!("{acked} puts, {refusal}"));
        // A process that cannot write its log has to end; give it the time to say why.
        let deadline = Instant::now() + Duration::from_secs(5);
        while home.server.running() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        let ended = !home.server.running();
        let log = home.server.log();
        let told = refusal.contains("database space exceeded");
        let reasons =
            ["no space left", "os error 28", "enospc", "storagefull", "storage full", "disk is full"];
        let reason = log.lines().rev().find(|line| reasons.iter().any(|r| line.to_lowercase().contains(r)));
        figures.add("full disk: the process", if ended { "ended" } else { "goes on" });
        figures.add(
            "full disk: it said",
            reason.map_or("nothing of it", |line| line.get(..300).unwrap_or(line)),
        );
        if binary.cairn && !told && reason.is_none() {
            return Err(home.explain("a full disk must be reported", &figures));
        }
        if let Some(mount) = &home.mount {
            mount.resize(self.disk_mib * 3)?;
        }
        if ended {
            home.server.start()?;
        }
        // The alarm of a server that goes on stays until it is disarmed, and keeps /health false.
        home.client().disarm().await.ok();
        if let Err(failure) = home.server.healthy(EVENTUALLY).await {
            return Err(home.explain(&failure.to_string(), &figures));
        }
        for number in 0..acked {
            let key = format!("{PREFIX}{number:06}");
            let read = home.client().read(&key).await.or_fail("read after the disk was enlarged");
            let read = read.map_err(|failure| home.explain(&failure.to_string(), &figures))?;
            let intact =
                read.kvs.first().is_some_and(|kv| kv.value.starts_with(format!("{number:06}x").as_bytes()));
            if !intact {
                return Err(home.explain(&format!("acknowledged {key} is gone"), &figures));
            }
        }
        match home.client().put(&format!("{PREFIX}again"), "value").await {
            Outcome::Ok(_) => figures.add("full disk: with space again", "all read back, a put succeeds"),
            Outcome::Refused(error) | Outcome::Unknown(error) => {
                return Err(home.explain(&format!("no put with space again: {error}"), &figures));
            }
        }
        Ok(figures)
    }

    async fn damaged_log(&self, binary: &Binary) -> Result<Figures, Failure> {
        let (mut home, written) = self.filled(binary).await?;
        // A server may release segments when it has flushed what they hold, so the kill comes in the
        // middle of writes, at a moment when some are there.
        let value = "y".repeat(1 << 20);
        let mut extra = 0;
        while segments_of(&home.server)?.len() < 3 && extra < 100 {
            home.client().put(&format!("{PREFIX}extra"), &value).await.or_fail("fill")?;
            extra += 1;
        }
        home.server.kill();
        let mut figures = Figures::default();
        let segments = segments_of(&home.server)?;
        figures.add("damaged log: segments", segments.len());
        if segments.len() < 2 {
            return Err(home.explain("no closed segment to damage; raise --written-mib", &figures));
        }
        let closed = &segments[segments.len() - 2];
        let at = fs::metadata(closed)?.len() / 2;
        flip(closed, at)?;
        figures.add("damaged log: flipped", format!("{} at {at}", name_of(closed)));
        let start = home.restart().await?;
        describe(&mut figures, "damaged log: start", &start);
        match &start {
            Start::Failed { code, said }
                if *code != Some(0) && said.contains(&name_of(closed)) && said.contains("offset") => {}
            _ if !binary.cairn => {}
            // The backend holds what the damaged entry did, so the entry is not needed.
            Start::Healthy => {
                let reads = home.read_damaged(&written).await?;
                if reads.wrong.is_some() || reads.failed.is_some() {
                    return Err(home.explain("the start must fail, or everything must be there", &figures));
                }
            }
            _ => {
                return Err(home.explain("the start must fail and name the segment and the offset", &figures));
            }
        }
        Ok(figures)
    }

    async fn damaged_database(
        &self,
        binary: &Binary,
        what: &str,
        damage: Damage,
    ) -> Result<Figures, Failure> {
        let (mut home, written) = self.filled(binary).await?;
        home.server.terminate(EVENTUALLY).await?;
        let mut figures = Figures::default();
        let db = home.server.data.join("member/snap/db");
        let length = fs::metadata(&db)?.len();
        let at = damage(&db)?;
        figures.add(format!("{what}: at"), format!("{at} of {length}"));
        let start = home.restart().await?;
        describe(&mut figures, &format!("{what}: start"), &start);
        match start {
            Start::Failed { code, said } => {
                // A wrong magic number is at offset 0; a file that is cut off has no offset to name.
                let place = ["offset", "truncated", "magic number"].iter().any(|word| said.contains(word));
                let named = said.contains("snap/db") && place;
                if binary.cairn && (code == Some(0) || !named) {
                    return Err(home.explain("the failure must name the file and the offset", &figures));
                }
            }
            // Damage may be where no start looks: then the read that meets it has to fail.
            Start::Healthy => match home.read_damaged(&written).await? {
                Reads { wrong: Some(key), .. } => {
                    figures.add(format!("{what}: data after the start"), format!("DAMAGED: {key}"));
                    if binary.cairn {
                        return Err(home.explain("damaged data is served", &figures));
                    }
                }
                Reads { failed: Some((key, said)), .. } => {
                    let reason = said.lines().rev().find(|line| line.contains("state database"));
                    let reason = reason.unwrap_or("nothing of it");
                    figures.add(
                        format!("{what}: data after the start"),
                        format!("none for {key}: {}", reason.get(..400).unwrap_or(reason)),
                    );
                    let named =
                        ["table", "key", "offset", "snapshot"].iter().all(|word| reason.contains(word));
                    if binary.cairn && !named {
                        let what = "the failure must name the table, the key and the offset";
                        return Err(home.explain(what, &figures));
                    }
                }
                Reads { .. } => figures.add(format!("{what}: data after the start"), "intact"),
            },
            Start::Undecided if binary.cairn => {
                return Err(home.explain("the start neither fails nor succeeds", &figures));
            }
            Start::Undecided => {}
        }
        Ok(figures)
    }

    /// A member that has written some data, and that data.
    async fn filled(&self, binary: &Binary) -> Result<(Home, Vec<Event>), Failure> {
        let mut home = Home::new(binary)?;
        home.start().await?;
        for number in 0..self.written_mib {
            let value = format!("{MARK}{number:06}").repeat((1 << 20) / (MARK.len() + 6));
            home.client().put(&format!("{PREFIX}{:06}", number % 20), &value).await.or_fail("fill")?;
        }
        let values = home.values().await?;
        Ok((home, values))
    }
}

/// What the values that fill the database consist of, so that one can be found in its file.
const MARK: &str = "a-value-to-be-found";

/// Damages a database file; where.
type Damage = fn(&Path) -> Result<u64, Failure>;

fn damage_value(db: &Path) -> Result<u64, Failure> {
    // A value is a megabyte of repeated marks, so a look at every few kilobytes finds each of them. The
    // newest one is taken: an older value of its key may be read by nobody.
    let bytes = fs::read(db)?;
    let mark_at = |step: usize| {
        let window = &bytes[step..(step + 2 * (MARK.len() + 6)).min(bytes.len())];
        let found = window.windows(MARK.len()).position(|part| part == MARK.as_bytes())?;
        let number = window.get(found + MARK.len()..found + MARK.len() + 6)?;
        Some((number.to_vec(), step + found))
    };
    let newest = (0..bytes.len()).step_by(16 << 10).filter_map(mark_at).max();
    let (_, at) = newest.ok_or_else(|| Failure::new("no value is in the database file"))?;
    let at = at as u64 + 4;
    flip(db, at)?;
    Ok(at)
}

fn damage_header(db: &Path) -> Result<u64, Failure> {
    flip(db, 0)?;
    Ok(0)
}

fn cut_in_half(db: &Path) -> Result<u64, Failure> {
    let file = File::options().write(true).open(db)?;
    let half = file.metadata()?.len() / 2;
    file.set_len(half)?;
    Ok(half)
}

fn flip(path: &Path, at: u64) -> Result<(), Failure> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 0x10], at)?;
    Ok(file.sync_all()?)
}

/// The log's segments, the one being written last.
fn segments_of(server: &Server) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(server.data.join("member/wal"))?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut segments: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "wal")).collect();
    segments.sort();
    Ok(segments)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn describe(figures: &mut Figures, what: &str, start: &Start) {
    let text = match start {
        Start::Failed { code, said } => {
            let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
            // What comes after the first complaint is a stack or the way out.
            let reason = lines.iter().find(|line| {
                let line = line.to_lowercase();
                ["fatal", "panic", "\"error\"", "error:", " c | "].iter().any(|mark| line.contains(mark))
            });
            let reason = reason.or(lines.last()).copied().unwrap_or("nothing");
            format!("fails ({code:?}): {}", reason.get(..400).unwrap_or(reason))
        }
        Start::Healthy => "is healthy".to_owned(),
        Start::Undecided => format!("neither ends nor is healthy within {VERDICT:?}"),
    };
    figures.add(what, text);
}

/// A single member in a directory of its own; the fields drop in this order.
struct Home {
    server: Server,
    mount: Option<Mount>,
    root: TempDir,
}

impl Home {
    fn new(binary: &Binary) -> Result<Self, Failure> {
        let root = TempDir::with_prefix("cairn-jepsen-")?;
        let mut server = Server::new(binary, root.path(), "only");
        server.configure(&format!("only={}", server.peer_url), "new", &[]);
        Ok(Self { server, mount: None, root })
    }

    async fn start(&mut self) -> Result<(), Failure> {
        self.server.start()?;
        let healthy = self.server.healthy(EVENTUALLY).await;
        healthy.map(drop).map_err(|failure| failure.note(self.server.log_tail(25)))
    }

    async fn restart(&mut self) -> Result<Start, Failure> {
        self.server.start()?;
        Ok(verdict(&mut self.server).await)
    }

    fn client(&self) -> Client {
        Client::new(&self.server.client_url, Duration::from_secs(10))
    }

    async fn values(&self) -> Result<Vec<Event>, Failure> {
        let response = self.client().range(prefix_range(PREFIX)).await.or_fail("read all values")?;
        Ok(response.kvs.iter().map(Event::from).collect())
    }

    /// Reads each key by itself; a member that ends over one is started again for the others.
    async fn read_damaged(&mut self, written: &[Event]) -> Result<Reads, Failure> {
        let mut reads = Reads { wrong: None, failed: None };
        for event in written {
            match self.client().read(&event.key).await {
                Outcome::Ok(response) => {
                    let found: Vec<Event> = response.kvs.iter().map(Event::from).collect();
                    if found != std::slice::from_ref(event) {
                        reads.wrong = Some(event.key.clone());
                        return Ok(reads);
                    }
                }
                Outcome::Refused(error) | Outcome::Unknown(error) => {
                    // What the process said is written when it has ended, if it ends at all.
                    let ended = self.server.exited(VERDICT).await.is_ok();
                    let said = format!("{error}\n{}", self.server.log());
                    reads.failed.get_or_insert((event.key.clone(), said));
                    if ended && !matches!(self.restart().await?, Start::Healthy) {
                        return Ok(reads);
                    }
                }
            }
        }
        Ok(reads)
    }

    fn explain(&self, what: &str, figures: &Figures) -> Failure {
        Failure::new(what).note(figures.to_string()).note(self.server.log_tail(25))
    }
}

async fn verdict(server: &mut Server) -> Start {
    match server.healthy(VERDICT).await {
        Ok(_) => Start::Healthy,
        Err(_) => match server.exited(POLL).await {
            Ok(status) => Start::Failed { code: status.code(), said: server.log() },
            Err(_) => Start::Undecided,
        },
    }
}

/// A small file system in memory, unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    /// None when this process may not mount.
    fn tmpfs(at: &Path, mib: u64) -> Result<Option<Self>, Failure> {
        fs::create_dir_all(at)?;
        let size = format!("size={mib}m,mode=0700");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "cairn-jepsen"]).arg(at).output()?;
        Ok(status.status.success().then(|| Self(at.to_owned())))
    }

    fn resize(&self, mib: u64) -> Result<(), Failure> {
        let size = format!("remount,size={mib}m");
        let output = Command::new("mount").args(["-o", &size]).arg(&self.0).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(Failure::new(format!("remount: {}", String::from_utf8_lossy(&output.stderr))))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
