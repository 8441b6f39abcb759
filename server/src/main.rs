//! The server's program: reads the configuration, then runs a member.

use std::collections::BTreeMap;
use std::process::ExitCode;

use cairn_server::config::{self, Loaded};

/// Gives memory back that nobody uses: glibc's allocator keeps what one large answer took. Its settings
/// are in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    abort_on_panic();
    let env: BTreeMap<String, String> = std::env::vars().collect();
    let loaded = config::load(std::env::args().skip(1), &env, &|path| std::fs::read_to_string(path));
    let (config, notices) = match loaded {
        Loaded::Exit { code, stdout, stderr } => {
            print!("{stdout}");
            eprint!("{stderr}");
            return ExitCode::from(u8::try_from(code).unwrap_or(1));
        }
        Loaded::Run { config, notices } => (*config, notices),
    };
    if let Err(error) = cairn_server::log::init(&config.log) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    cairn_server::log::write_notices(&notices);
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(cairn_server::run(config)),
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A panic is a bug, and a member that lost one of its threads to it must not look alive.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
