//! cairnctl: Cairn's command-line client.
