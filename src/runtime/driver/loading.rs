//! Rule sets that are loaded into a running cluster: one after the other, each in force at one epoch, once that is durable.

use std::sync::Arc;

use clawdstrike_rules::plan::RuleSet;
use tokio::sync::oneshot;

use super::Sequence;
use crate::loads::{InForce, Next};
use crate::render::control::{Command, Switch};
use crate::runtime::handle::{Loaded, Moment};
use crate::runtime::recovery::KeepLoads;

/// A rule set that comes in force once that is durable.
pub(super) struct Loading {
    set: Arc<RuleSet>,
    in_force: InForce,
    watermark: Option<i64>,
    loaded: oneshot::Sender<Loaded>,
}

impl Sequence {
    /// Puts the next rule set in force, once that is durable.
    pub(super) fn load(&mut self) {
        if self.loading.is_none()
            && let Some((set, loaded)) = self.to_load.pop_front()
        {
            let watermark = self.built.totals.borrow().watermark;
            let in_force = self.in_force.then(&set, watermark, self.read_so_far());
            if let Some(keep) = &self.given.keep_loads {
                keep.keep(in_force.clone());
            }
            self.loading = Some(Loading { set, in_force, watermark, loaded });
        }
        let kept = self.given.keep_loads.as_ref().map_or(u64::MAX, KeepLoads::kept);
        if let Some(Loading { set, mut in_force, watermark, loaded }) =
            self.loading.take_if(|loading| loading.in_force.number <= kept)
        {
            in_force.fill_as(&self.in_force);
            self.switch(&set, in_force);
            self.loads.push((self.epoch, watermark, loaded));
        }
    }

    /// Puts a rule set in force.
    pub(super) fn switch(&mut self, set: &Arc<RuleSet>, in_force: InForce) {
        self.fill = 0;
        if in_force.is_filling() {
            self.fills += 1;
            self.fill = self.fills;
            let waiting = in_force.rules.iter().filter(|rule| !rule.filled).count();
            tracing::info!(
                epoch = self.epoch,
                rules = waiting,
                "earlier events are read again for new and changed rules"
            );
        }
        self.in_force = in_force.clone();
        self.given.rules = set.clone();
        self.send(Command::Rules(Box::new(Switch { set: RuleSet::clone(set), in_force, fill: self.fill })));
    }

    /// Rules that waited for earlier events have them.
    pub(super) fn note_filled(&mut self) {
        if self.fill > 0 && self.built.totals.borrow().filled == self.fill {
            self.fill = 0;
            self.in_force.fill();
            tracing::info!(epoch = self.epoch, "earlier events have been read again: new and changed rules have begun");
        }
    }

    /// What a load would begin with now.
    pub(super) fn moment(&self) -> Moment {
        let totals = self.built.totals.borrow();
        Moment {
            epoch: self.told_closed.saturating_sub(1),
            watermark: totals.watermark,
            set: self.given.rules.clone(),
            in_force: self.in_force.clone(),
            read: self.read_so_far(),
            positions: totals.positions.iter().map(|(id, next)| (*id, *next)).collect(),
        }
    }

    /// What to read next of the partitions.
    fn read_so_far(&self) -> Vec<Next> {
        let totals = self.built.totals.borrow();
        let name = |source: u16| self.sources.get(usize::from(source)).cloned();
        totals.positions.iter().filter_map(|(id, next)| Some((name(id.source)?, id.partition, *next))).collect()
    }
}
