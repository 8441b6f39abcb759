//! The version numbers that clients and operators see.
//!
//! `API_VERSION` is the etcd level whose contract Cairn follows; clients read
//! it (`/version`, `Status.version`) to decide which features they may use.
//! Cairn's own release number is separate and never sent in its place.

/// The etcd release whose client contract this server implements.
pub const API_VERSION: &str = "3.7.1";

/// The cluster version that follows from `API_VERSION`: the patch number is always zero.
pub const CLUSTER_VERSION: &str = "3.7.0";

/// Cairn's own release number.
pub const CAIRN_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit this binary was built from, when the build was told it.
pub const GIT_SHA: &str = match option_env!("CAIRN_GIT_SHA") {
    Some(sha) => sha,
    None => "Not provided",
};

/// The machine architecture by the name that etcd and its tools use for it.
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        other => other,
    }
}

/// What `--version` prints: etcd's four lines, so that scripts that read them
/// keep working, then Cairn's own.
pub fn banner() -> String {
    format!(
        "etcd Version: {API_VERSION}\nGit SHA: {GIT_SHA}\nGo Version: none (Cairn is written in Rust)\n\
         Go OS/Arch: {}/{}\nCairn Version: {CAIRN_VERSION}\n",
        std::env::consts::OS,
        arch()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banner_has_etcd_lines_then_ours() {
        let text = banner();
        let keys: Vec<&str> = text.lines().map(|l| l.split(": ").next().expect("a key")).collect();
        assert_eq!(keys, ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch", "Cairn Version"]);
        assert!(text.starts_with("etcd Version: 3.7.1\n"));
    }

    #[test]
    fn cluster_version_is_the_api_line() {
        let line = API_VERSION.rsplit_once('.').expect("three numbers").0;
        assert_eq!(CLUSTER_VERSION, format!("{line}.0"));
    }
}
