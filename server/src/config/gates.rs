//! Feature gates: names, defaults and the `--feature-gates` grammar.
//!
//! Owns the list of gates of etcd 3.6 and 3.7. What a gate switches is decided
//! by its owner, which reads `Features`. Invariant: every gate etcd knows is
//! accepted here, so a configuration written for etcd starts.

use super::flags::{parse_bool, quote};

/// How ripe a feature is; beta is on by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Off by default.
    Alpha,
    /// On by default.
    Beta,
}

/// All gates with their stage.
pub(super) const GATES: [(&str, Stage); 9] = [
    ("StopGRPCServiceOnDefrag", Stage::Alpha),
    ("TxnModeWriteWithSharedBuffer", Stage::Beta),
    ("InitialCorruptCheck", Stage::Alpha),
    ("CompactHashCheck", Stage::Alpha),
    ("LeaseCheckpoint", Stage::Alpha),
    ("LeaseCheckpointPersist", Stage::Alpha),
    ("SetMemberLocalAddr", Stage::Alpha),
    ("FastLeaseKeepAlive", Stage::Beta),
    ("PriorityRequest", Stage::Alpha),
];

/// The state of every gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features(Vec<(&'static str, Stage, bool)>);

impl Default for Features {
    fn default() -> Self {
        Features(GATES.iter().map(|&(name, stage)| (name, stage, stage == Stage::Beta)).collect())
    }
}

impl Features {
    /// Whether the gate is open. An unknown name is a bug of the caller.
    pub fn enabled(&self, gate: &str) -> bool {
        self.0.iter().find(|(name, ..)| *name == gate).map(|(.., on)| *on).expect("gate is in GATES")
    }

    /// Name, stage and state of every gate, for the metric that lists them.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Stage, bool)> + '_ {
        self.0.iter().copied()
    }

    /// Applies parsed gates: `AllAlpha` and `AllBeta` first, so that a gate
    /// named by itself wins over them.
    pub(super) fn apply(&mut self, gates: &[(String, bool)]) {
        for (name, on) in gates {
            let stage = match name.as_str() {
                "AllAlpha" => Stage::Alpha,
                "AllBeta" => Stage::Beta,
                _ => continue,
            };
            self.0.iter_mut().filter(|gate| gate.1 == stage).for_each(|gate| gate.2 = *on);
        }
        for (name, on) in gates {
            self.0.iter_mut().filter(|gate| gate.0 == name).for_each(|gate| gate.2 = *on);
        }
    }
}

/// Why a gate in that state changes nothing; `None` if it asks for what is done.
pub(super) fn no_effect(gate: &str, on: bool) -> Option<&'static str> {
    match (gate, on) {
        ("StopGRPCServiceOnDefrag", true) => Some("a defragmentation stops nothing, so requests are served"),
        ("TxnModeWriteWithSharedBuffer", false) => Some("there is no such buffer"),
        ("LeaseCheckpoint" | "LeaseCheckpointPersist", false) => {
            Some("remaining TTLs are always checkpointed")
        }
        ("SetMemberLocalAddr", true) => Some("peer connections leave from any local address"),
        ("FastLeaseKeepAlive", false) => {
            Some("a renewal waits for leadership to be confirmed, and for no more")
        }
        ("PriorityRequest", true) => Some("no request overtakes others"),
        _ => None,
    }
}

/// Parses `A=true,B=false`.
pub(super) fn parse(text: &str) -> Result<Vec<(String, bool)>, String> {
    let mut gates = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(format!("missing bool value for {pair}"));
        };
        let (name, value) = (name.trim(), value.trim());
        let on = parse_bool(value).ok_or_else(|| {
            format!(
                "invalid value of {name}={value}, err: strconv.ParseBool: parsing {}: invalid syntax",
                quote(value)
            )
        })?;
        if !matches!(name, "AllAlpha" | "AllBeta") && !GATES.iter().any(|(gate, _)| *gate == name) {
            return Err(format!("unrecognized feature gate: {name}"));
        }
        gates.push((name.to_owned(), on));
    }
    Ok(gates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_gates_win_over_groups() {
        let mut features = Features::default();
        assert!(features.enabled("TxnModeWriteWithSharedBuffer") && !features.enabled("LeaseCheckpoint"));
        features.apply(&parse("LeaseCheckpoint=false,AllAlpha=true,AllBeta=false").expect("legal"));
        assert!(features.enabled("CompactHashCheck"));
        assert!(
            no_effect("CompactHashCheck", true).is_none() && no_effect("PriorityRequest", true).is_some()
        );
        assert!(!features.enabled("LeaseCheckpoint") && !features.enabled("FastLeaseKeepAlive"));
    }

    #[test]
    fn bad_gates_are_named() {
        assert_eq!(parse("Foo=true"), Err("unrecognized feature gate: Foo".to_owned()));
        assert_eq!(parse("LeaseCheckpoint"), Err("missing bool value for LeaseCheckpoint".to_owned()));
        assert!(
            parse("LeaseCheckpoint=maybe")
                .expect_err("bad")
                .starts_with("invalid value of LeaseCheckpoint=maybe")
        );
    }
}
