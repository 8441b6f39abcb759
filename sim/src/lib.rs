//! Cairn's deterministic simulator: cluster, network, disks, workloads, checkers.
