//! `cairn-jepsen SCENARIO [flags]`: runs one scenario against the binary that `CAIRN_BIN` names and
//! prints its figures; the exit status is 1 when it did not hold.

use std::process::ExitCode;
use std::time::Instant;

use cairn_jepsen::process::Binary;
use cairn_jepsen::scenario::{
    Big, CountEvents, Environment, ForceNew, GrowShrink, KillLeader, KillSingle, RottenLog, Watchers,
    WipedDisk,
};
use cairn_jepsen::{Failure, Figures};
use clap::Parser;

/// Runs real server processes under faults and checks what they kept.
#[derive(Debug, Parser)]
#[command(name = "cairn-jepsen", version)]
enum Command {
    /// kill -9 of the leader, again and again, under writers
    KillLeader(KillLeader),
    /// a member loses its disk and is added again
    WipedDisk(WipedDisk),
    /// two of three members are lost for good; the third is forced to go on alone and grows again
    ForceNew(ForceNew),
    /// 1 -> 3 -> 5 -> 3 members under writers
    GrowShrink(GrowShrink),
    /// kill -9 of a single member, again and again, under writers
    KillSingle(KillSingle),
    /// a follower's log rots and is repaired from the others (Cairn only)
    RottenLog(RottenLog),
    /// ten thousand watchers, and clients that stop reading
    Watchers(Watchers),
    /// a million keys: memory, disk, restart, and puts beside a full range
    Big(Big),
    /// full disk, damaged files, a directory in use
    Environment(Environment),
    /// the client that `watchers` stops
    #[command(hide = true)]
    CountEvents(CountEvents),
}

#[tokio::main]
async fn main() -> ExitCode {
    let begin = Instant::now();
    match run(Command::parse()).await {
        Ok(Some(figures)) => {
            print!("{figures}");
            println!("PASSED in {:.1} s", begin.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<Option<Figures>, Failure> {
    if let Command::CountEvents(count) = command {
        return count.run().await.map(|()| None);
    }
    let binary = Binary::find()?;
    println!("binary: {} ({})", binary.path.display(), binary.label());
    let figures = match command {
        Command::KillLeader(scenario) => scenario.run(&binary).await?,
        Command::WipedDisk(scenario) => scenario.run(&binary).await?,
        Command::ForceNew(scenario) => scenario.run(&binary).await?,
        Command::GrowShrink(scenario) => scenario.run(&binary).await?,
        Command::KillSingle(scenario) => scenario.run(&binary).await?,
        Command::RottenLog(scenario) => scenario.run(&binary).await?,
        Command::Watchers(scenario) => scenario.run(&binary, std::env::current_exe().ok()).await?,
        Command::Big(scenario) => scenario.run(&binary).await?,
        Command::Environment(scenario) => scenario.run(&binary).await?,
        Command::CountEvents(_) => Figures::default(),
    };
    Ok(Some(figures))
}
