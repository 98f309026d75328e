//! Which entries a caller misses by the least, for whoever wonders why he does not get them.

use std::cmp::Reverse;
use std::sync::Arc;

use super::set::{EntrySet, Place};
use super::{Entry, NoValue};
use crate::selector::{Cost, Selector, SelectorSet};
use crate::spiffe_id::SpiffeId;

/// An entry that does not match a caller.
#[derive(Debug, Clone)]
pub struct NearMiss {
    /// The entry.
    pub entry: Arc<Entry>,
    /// The selectors of the entry that he has.
    pub has: Vec<Selector>,
    /// Those that he lacks.
    pub lacks: Vec<Selector>,
    /// Why he cannot complete the identity, where he lacks nothing else.
    pub incomplete: Option<NoValue>,
}

/// How much is known of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Everything that can be found.
    Everything,
    /// What a call needs: beyond what the connection tells, only that by which an entry could match.
    AsNeeded,
}

/// How far away an entry is: one of which he has nothing at all is farther than any other, then what
/// he lacks counts, then what he has, then the order.
type Distance = (bool, usize, Reverse<usize>, Place);

impl EntrySet {
    /// The `count` entries that are nearest to matching, the nearest first; with `wanted` only those
    /// that could grant that ID, if there is one. Looks at every entry.
    pub fn nearest(
        &self,
        found: &SelectorSet,
        known: Known,
        wanted: Option<&SpiffeId>,
        count: usize,
    ) -> Vec<NearMiss> {
        let best = |wanted: Option<&SpiffeId>| {
            let mut best: Vec<(Distance, &Arc<Entry>)> = Vec::with_capacity(count + 1);
            for (place, entry) in self.iter() {
                if wanted.is_some_and(|id| !entry.grants.may_be(id)) {
                    continue;
                }
                let Some(distance) = distance(place, entry, found, known) else {
                    continue;
                };
                let at = best.partition_point(|(other, _)| *other < distance);
                if at < count {
                    best.insert(at, (distance, entry));
                    best.truncate(count);
                }
            }
            best
        };
        let mut nearest = best(wanted);
        if nearest.is_empty() && wanted.is_some() {
            nearest = best(None);
        }
        let misses = nearest.into_iter();
        misses
            .map(|(_, entry)| near_miss(entry, found, known))
            .collect()
    }
}

/// How far away an entry is; `None` if it matches.
fn distance(place: Place, entry: &Entry, found: &SelectorSet, known: Known) -> Option<Distance> {
    let all = entry.selectors.iter();
    let (has, lacks): (Vec<_>, Vec<_>) = all.partition(|one| found.contains(one));
    if lacks.is_empty() && entry.grants.identity(found).is_ok() {
        return None;
    }
    let cost = looked_for(&lacks, known);
    let lacks = lacks.iter().filter(|one| one.cost() <= cost).count();
    let has = has.len();
    Some((has == 0, lacks, Reverse(has), place))
}

/// Who lacks something cheap was not looked at for what is dearer, so it is not known whether he has
/// that.
fn looked_for(lacks: &[&Selector], known: Known) -> Cost {
    let cheapest = lacks.iter().map(|one| one.cost()).min();
    cheapest
        .filter(|_| known == Known::AsNeeded)
        .unwrap_or(Cost::Dear)
}

fn near_miss(entry: &Arc<Entry>, found: &SelectorSet, known: Known) -> NearMiss {
    let all = entry.selectors.iter();
    let (has, lacks): (Vec<_>, Vec<_>) = all.partition(|one| found.contains(one));
    let cost = looked_for(&lacks, known);
    let lacks = lacks.into_iter().filter(|one| one.cost() <= cost);
    let (has, lacks): (Vec<_>, Vec<_>) =
        (has.into_iter().cloned().collect(), lacks.cloned().collect());
    let incomplete = if lacks.is_empty() {
        entry.grants.identity(found).err()
    } else {
        None
    };
    NearMiss {
        entry: Arc::clone(entry),
        has,
        lacks,
        incomplete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::entry;

    fn nearest(texts: &[&str], known: Known, wanted: Option<&str>) -> Vec<String> {
        let mut entries = vec![
            entry("stranger", "spiffe://td/stranger", &["unix:uid:9"]),
            entry(
                "two",
                "spiffe://td/two",
                &["unix:uid:1", "unix:gid:8", "unix:gid:9"],
            ),
            entry(
                "program",
                "spiffe://td/program",
                &["unix:uid:1", "unix:path:/p"],
            ),
            entry(
                "other",
                "spiffe://td/other",
                &["unix:uid:2", "unix:path:/q"],
            ),
            entry("match", "spiffe://td/match", &["unix:uid:1"]),
        ];
        entries.push(entry(
            "last",
            "spiffe://td/last",
            &["unix:gid:7", "unix:uid:1"],
        ));
        let set: EntrySet = entries.into_iter().collect();
        let found: SelectorSet = texts.iter().map(|text| text.parse().unwrap()).collect();
        let wanted = wanted.map(|id| id.parse().unwrap());
        let told = |miss: NearMiss| {
            let lacks: Vec<_> = miss.lacks.iter().map(Selector::to_string).collect();
            format!("{} lacks {}", miss.entry.id, lacks.join(" "))
        };
        let nearest = set.nearest(&found, known, wanted.as_ref(), 3);
        nearest.into_iter().map(told).collect()
    }

    #[test]
    fn the_nearest_entry_is_the_one_of_which_a_caller_lacks_the_least() {
        assert_eq!(
            nearest(&["unix:uid:1", "unix:gid:1"], Known::Everything, None),
            [
                "program lacks unix:path:/p",
                "last lacks unix:gid:7",
                "two lacks unix:gid:8 unix:gid:9"
            ]
        );
        // The right program of the wrong user.
        let found = ["unix:uid:3", "unix:path:/q"];
        assert_eq!(
            nearest(&found, Known::Everything, None)[0],
            "other lacks unix:uid:2"
        );
    }

    #[test]
    fn the_entry_of_the_wanted_identity_is_the_nearest_and_what_was_not_looked_for_is_not_missing()
    {
        let of = |known, wanted| nearest(&["unix:uid:3"], known, Some(wanted));
        let lacks_both = ["other lacks unix:path:/q unix:uid:2"];
        assert_eq!(of(Known::Everything, "spiffe://td/other"), lacks_both);
        assert_eq!(
            of(Known::AsNeeded, "spiffe://td/other"),
            ["other lacks unix:uid:2"]
        );
        assert_eq!(of(Known::AsNeeded, "spiffe://td/none").len(), 3);
    }
}
