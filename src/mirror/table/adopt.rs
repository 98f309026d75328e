//! How the table follows the configuration and the entries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Block, Plan, Table, Trouble};
use crate::entry::EntrySet;
use crate::mirror::manifest::Lying;
use crate::mirror::pace::Influx;
use crate::mirror::spec::TokenFileSpec;

impl Table {
    /// Follows the configuration and the entries: what is as it was goes on, what is new or different
    /// is due `now`. Gives the files whose token nobody is to have any more.
    pub fn adopt(
        &mut self,
        specs: &[TokenFileSpec],
        entries: &EntrySet,
        now: Duration,
    ) -> Vec<Lying> {
        let mut former = std::mem::take(&mut self.blocks);
        let mut gone = Vec::new();
        for spec in specs {
            let order = spec.order(entries);
            let block = match former.remove(&spec.path) {
                Some(old) if *old.plan.spec == *spec && old.plan.order == order => old,
                old => {
                    let plan = Arc::new(Plan {
                        spec: Arc::new(spec.clone()),
                        order,
                        superseded: AtomicBool::new(false),
                        lateness: Arc::default(),
                    });
                    self.replan(old, plan, now, &mut gone)
                }
            };
            self.blocks.insert(spec.path.clone(), block);
        }
        for block in former.into_values() {
            block.plan.superseded.store(true, Ordering::Release);
            for number in block.files.into_values() {
                gone.extend(self.drop_file(number));
            }
        }
        self.drop_queues();
        gone
    }

    /// A block with another plan, and the files that it had.
    fn replan(
        &mut self,
        old: Option<Block>,
        plan: Arc<Plan>,
        now: Duration,
        gone: &mut Vec<Lying>,
    ) -> Block {
        let mut block = Block {
            plan: Arc::clone(&plan),
            files: BTreeMap::new(),
            trouble: String::new(),
            influx: Influx::default(),
            is_full: false,
            told_of_disk: false,
        };
        let old_files = old.map(|old| {
            old.plan.superseded.store(true, Ordering::Release);
            block.influx = old.influx;
            old.files
        });
        let parameter = plan.spec.parameter.as_ref();
        if parameter.is_none() && old_files.is_none() {
            let number = self.add_file(&plan, "".into(), now);
            block.files.insert("".into(), number);
        }
        for (value, number) in old_files.into_iter().flatten() {
            let stays = parameter.is_none_or(|parameter| {
                parameter.pattern.fits(&value) && block.files.len() < parameter.most
            });
            if !stays {
                block.is_full = true;
                gone.extend(self.drop_file(number));
                continue;
            }
            block.files.insert(value, number);
            let Some(file) = self.files.get_mut(&number) else {
                continue;
            };
            file.plan = Arc::clone(&plan);
            file.trouble = None;
            if plan.order.is_ok() {
                self.make_due(number, now);
            } else {
                let written = file.written.take();
                let path = plan.spec.path_of(&file.value).into_owned();
                gone.extend(written.map(|written| Lying::of(path, written.file)));
                self.idle(number);
            }
        }
        if let Err(waits) = &plan.order {
            let why = waits.to_string();
            for number in block.files.values() {
                if let Some(file) = self.files.get_mut(number) {
                    file.trouble = Some(Box::new(Trouble {
                        error: why.clone(),
                        ..Trouble::default()
                    }));
                }
            }
            block.trouble = why;
        }
        block
    }
}
