//! Damage to what was durable: rot, lost and misdirected writes, files that are gone or changed.
//!
//! It knows nothing of what it hits; whether a good copy is left elsewhere is the atlas's business
//! (`crate::atlas`). Everything here is applied at rest: the cache forgets the sectors.

use super::device::{Folder, SimDisk, State};
use super::store::DB;
use crate::fault::Fault;

impl SimDisk {
    /// Damages a file of the folder; says what was done, `None` when there was nothing to damage.
    pub fn damage(&self, fault: Fault, folder: Folder) -> Option<String> {
        let mut state = self.state();
        let names = state.list(folder);
        let names: Vec<&String> = names.iter().filter(|name| name.ends_with(".wal") || *name == DB).collect();
        let name = names.get(state.rng.below(names.len() as u64) as usize)?.to_string();
        let id = state.id(folder, &name).ok()?;
        let what = match fault {
            Fault::ReadFails => state.hide_sector(id),
            Fault::BitRot => state.rot(id),
            Fault::WriteLost => state.lose_write(id, false),
            Fault::WriteMisdirected => state.lose_write(id, true),
            Fault::FileMissing => {
                state.damage_name(folder, &name, None);
                Some("is missing".to_owned())
            }
            Fault::FileRenamedBack => {
                let spare = if folder == Folder::Wal { "0000000000000bad.spare" } else { "db.incoming" };
                state.damage_name(folder, &name, Some(spare));
                Some(format!("is called {spare} again"))
            }
            Fault::FileTruncated => state.truncate(id),
            Fault::FileExtended => state.extend(id),
            _ => None,
        };
        what.map(|what| format!("{folder:?}/{name} {what}"))
    }

    /// Takes every file away.
    pub fn wipe(&self) {
        let mut state = self.state();
        for folder in [Folder::Wal, Folder::Snap] {
            for name in state.list(folder) {
                state.damage_name(folder, &name, None);
            }
        }
    }

    /// Puts the engine's file back to what it was on `older`, while the log stays; false when either
    /// has none.
    pub fn roll_back(&self, older: &Self) -> bool {
        let Some(bytes) = older.bytes(Folder::Snap, DB) else { return false };
        let mut state = self.state();
        let Ok(id) = state.id(Folder::Snap, DB) else { return false };
        let Some(file) = state.files.get_mut(&id) else { return false };
        file.set_len(0);
        file.write(0, &bytes);
        file.sync();
        true
    }
}

impl State {
    fn used_sector(&mut self, id: u64) -> Option<u64> {
        let Self { files, rng, .. } = self;
        files.get(&id).filter(|file| file.sectors() > 0)?.used_sector(rng)
    }

    fn hide_sector(&mut self, id: u64) -> Option<String> {
        let sector = self.used_sector(id)?;
        self.files.get_mut(&id)?.hide(sector);
        Some(format!("cannot be read at sector {sector}"))
    }

    fn rot(&mut self, id: u64) -> Option<String> {
        let sector = self.used_sector(id)?;
        let Self { files, rng, .. } = self;
        let file = files.get_mut(&id)?;
        let bits = [1, 1, 3, 4096][rng.below(4) as usize];
        file.damage(sector, |bytes| {
            for _ in 0..bits {
                let bit = rng.below(bytes.len() as u64 * 8) as usize;
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        });
        Some(format!("has up to {bits} bits flipped in sector {sector}"))
    }

    fn lose_write(&mut self, id: u64, misdirected: bool) -> Option<String> {
        let Self { files, rng, .. } = self;
        let file = files.get_mut(&id)?;
        let (sector, before) = file.overwritten(rng)?;
        let written = file.sector(sector);
        let whole = cairn_core::wal::SECTOR as usize;
        if written.len() != whole || before.len() != whole || written == before {
            return None;
        }
        file.damage(sector, |bytes| bytes.copy_from_slice(&before));
        if !misdirected {
            return Some(format!("lost the last write of sector {sector}"));
        }
        let other = rng.below(file.sectors());
        file.damage(other, |bytes| bytes.copy_from_slice(&written));
        Some(format!("has the last write of sector {sector} in sector {other}"))
    }

    fn truncate(&mut self, id: u64) -> Option<String> {
        let sector = self.used_sector(id)?;
        let file = self.files.get_mut(&id)?;
        file.set_len(sector * cairn_core::wal::SECTOR);
        file.sync();
        Some(format!("ends before sector {sector}"))
    }

    fn extend(&mut self, id: u64) -> Option<String> {
        let Self { files, rng, .. } = self;
        let file = files.get_mut(&id)?;
        let bytes: Vec<u8> = (0..1 + rng.below(5000)).map(|_| rng.next_u64() as u8).collect();
        file.write(file.len(), &bytes);
        file.sync();
        Some(format!("has {} bytes more", bytes.len()))
    }
}
