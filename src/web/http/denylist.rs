//! CIDs that are not served over HTTP, as a file lists them.
//!
//! A line has a CID, or a path that begins with `/ipfs/` and one; behind it may stand `legal`, for
//! what may not be served by law. What follows a `#` is for people. A CID is meant in all its forms,
//! with everything that a path leads to through it.

use super::error;
use crate::web::gate::Reply;
use barrow_wire::{Cid, Multihash};
use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead as _},
    path::Path,
};

/// Lines of a list at most: what they take in memory is some 100 bytes each.
const LINES_MAX: usize = 100_000;

/// What is not served, and whether by law.
#[derive(Default)]
pub(super) struct Denylist(HashMap<Multihash, bool>);

impl Denylist {
    /// Reads a list.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let named = |at: usize, why: &str| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}:{at}: {why}", path.display()))
        };
        let mut denied = HashMap::new();
        for (at, line) in io::BufReader::new(fs::File::open(path)?).lines().enumerate() {
            let line = line?;
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(target) = words.next() else { continue };
            let cid = target.strip_prefix("/ipfs/").unwrap_or(target);
            let cid: Cid = cid.parse().map_err(|_| named(at + 1, "no CID"))?;
            let hash = cid.multihash().ok_or_else(|| named(at + 1, "a CID of its own bytes"))?;
            let is_legal = match words.next() {
                None => false,
                Some("legal") => true,
                Some(_) => return Err(named(at + 1, "only `legal` may follow")),
            };
            denied.insert(hash, is_legal);
            if denied.len() > LINES_MAX {
                return Err(named(at + 1, "too many lines"));
            }
        }
        Ok(Self(denied))
    }

    /// The refusal, if one of these is on the list.
    pub(super) fn check(&self, cids: &[Cid]) -> Result<(), Reply> {
        let denied = cids.iter().filter_map(Cid::multihash).find_map(|hash| self.0.get(&hash));
        match denied {
            None => Ok(()),
            Some(true) => Err(error(451, "legal", "it is not served for legal reasons")),
            Some(false) => Err(error(410, "denied", "it is not served by this node")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cid_is_denied_in_all_its_forms() {
        let hello = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        fs::write(&path, format!("# none\n\n/ipfs/{hello} legal # why\n")).unwrap();
        let list = Denylist::read(&path).unwrap();
        let cid: Cid = hello.parse().unwrap();
        let v0 = Cid::v0(cid.multihash().unwrap()).unwrap();
        assert_eq!(list.check(&[v0]).err().map(|reply| reply.status), Some(451));
        assert!(list.check(&["bafkqaaa".parse().unwrap()]).is_ok());
        for bad in ["nonsense", &format!("{hello} because"), "bafkqaaa"] {
            fs::write(&path, bad).unwrap();
            assert!(Denylist::read(&path).is_err(), "{bad}");
        }
    }
}
