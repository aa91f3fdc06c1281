//! Which questions are sent, which answers belong to them, and what a seller may have answered before a break.

use std::collections::{BTreeSet, VecDeque};

use sensora_chain::Satoshis;

use super::{Ask, AskAction, AskError, Got, MAX_FORGOTTEN, MAX_IN_FLIGHT, MAX_UNKEPT, Want};
use crate::market::reads::asked::{Asked, MAX_RUNS};
use crate::market::reads::frame::{ToBuyer, ToSeller};
use crate::market::reads::known::Plan;

/// A question that was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Open {
    pub(super) id: u16,
    pub(super) asked: Question,
    /// It is for a reading of before a break, which the seller answers in any case.
    pub(super) owed: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Question {
    Reading { seq: u64, plan: Plan },
    Latest { last: Option<(u64, Plan)> },
    Grow,
}

impl Question {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Reading { .. } => "a reading",
            Self::Latest { .. } => "the newest reading",
            Self::Grow => "the log's growth",
        }
    }

    pub(super) const fn want(self) -> Option<Want> {
        match self {
            Self::Reading { seq, .. } => Some(Want::Seq(seq)),
            Self::Latest { .. } => Some(Want::Latest),
            Self::Grow => None,
        }
    }

    const fn resizes(self) -> bool {
        matches!(self, Self::Latest { .. } | Self::Grow)
    }
}

/// What a seller may have answered without that the answer is here: it asks the money for no other reading.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// Readings that were asked for.
    pub(super) numbers: BTreeSet<u64>,
    /// The newest was asked for so often: each answer may be any one reading from there on.
    pub(super) newest: Vec<u64>,
    /// Which readings were asked for was forgotten in a crash.
    pub(super) is_forgotten: bool,
}

impl Unanswered {
    pub(super) fn note(&mut self, asked: Question, size: u64) {
        match asked {
            Question::Reading { seq, .. } => drop(self.numbers.insert(seq)),
            Question::Latest { last } => self.newest.push(last.map_or(size, |(seq, _)| seq)),
            Question::Grow => {}
        }
    }

    /// All of these readings, if each of them may have been answered.
    fn all_of(&self, runs: &[(u64, u64)], asked: &Asked) -> Result<BTreeSet<u64>, AskError> {
        let mut newest = self.newest.clone();
        let mut owed = BTreeSet::new();
        let numbers = runs.iter().flat_map(|(first, count)| *first..first.saturating_add(*count));
        for seq in numbers {
            let place = newest.iter().position(|from| seq >= *from);
            let may_be = self.is_forgotten || self.numbers.contains(&seq) || place.is_some();
            if !may_be || asked.contains(seq) || !owed.insert(seq) {
                return Err(AskError::NotAsked { seq });
            }
            if let Some(place) = place.filter(|_| !self.is_forgotten && !self.numbers.contains(&seq)) {
                newest.swap_remove(place);
            }
        }
        Ok(owed)
    }
}

enum Tried {
    Asked,
    Waits,
    Got(Got),
}

impl Ask {
    /// Whether it answers a question that was dropped when the seller stopped.
    pub(super) fn is_late(&self, frame: &ToBuyer) -> bool {
        let (ToBuyer::Row { id, .. } | ToBuyer::Same { id }) = frame else { return false };
        self.stopped.is_some() && self.open.front().is_none_or(|open| open.id != *id)
    }

    /// The question that an answer is to: the first one that has none.
    pub(super) fn answered(&mut self, id: u16, frame: &'static str) -> Result<Question, AskError> {
        match self.open.pop_front() {
            Some(open) if open.id == id => {
                self.answered = Some(open);
                Ok(open.asked)
            }
            Some(open) => Err(AskError::Unexpected { frame, expected: open.asked.name() }),
            None => Err(AskError::Unexpected { frame, expected: "nothing" }),
        }
    }

    /// What the seller has answered, and did not come or was forgotten. It is charged already: so it must have been asked for, or after a crash be as few and as
    /// cheap as what can have been asked for and not kept.
    pub(super) fn owe(&mut self, runs: Vec<(u64, u64)>, paid: Satoshis) -> Result<(), AskError> {
        if !self.owed.is_empty() || self.looked > 0 {
            return Err(AskError::Unexpected { frame: "owed", expected: "something else" });
        }
        let more = runs.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        let count = self.asked.count().saturating_add(more);
        let due = self.price.due(count)?;
        if due > self.purchase.budget || runs.iter().any(|(_, count)| *count == 0) {
            return Err(AskError::Due { asked: due, due: self.purchase.budget });
        }
        let Unanswered { numbers, newest, is_forgotten } = &self.unanswered;
        let (most, most_due) = if *is_forgotten {
            // Before the crash as much may have been paid ahead as is let stand open, whatever the seller remembers of it.
            let kept = self.price.due(self.purchase.next)?;
            let ahead = kept.checked_add(self.interval.limit()).unwrap_or(Satoshis::MAX);
            (MAX_FORGOTTEN, self.beyond(paid.max(ahead))?)
        } else {
            (numbers.len().saturating_add(newest.len()) as u64, self.purchase.budget)
        };
        if more > most {
            return Err(AskError::Counts { said: count, here: self.asked.count() });
        }
        if due > most_due {
            return Err(AskError::Due { asked: due, due: most_due });
        }
        // From here on it is known what was answered.
        let numbers = self.unanswered.all_of(&runs, &self.asked)?;
        self.unanswered = Unanswered { numbers, ..Unanswered::default() };
        self.owed = runs.into();
        Ok(())
    }

    pub(super) fn owed_numbers(&self) -> BTreeSet<u64> {
        self.owed.iter().flat_map(|(first, count)| *first..first.saturating_add(*count)).collect()
    }

    /// Sends what can be asked now.
    pub(super) fn ask(
        &mut self,
        questions: &mut Vec<ToSeller>,
        actions: &mut Vec<AskAction>,
    ) -> Result<(), AskError> {
        if !self.begun {
            return Ok(());
        }
        if self.looked == 0 {
            // Before anything else: where there is nothing to verify a reading against, none is asked for.
            if self.open.is_empty() {
                self.ask_growth(questions);
            }
            return Ok(());
        }
        if !self.ask_owed(questions)? {
            return Ok(());
        }
        let mut waits = VecDeque::new();
        while let Some((want, looked)) = self.wanted.pop_front() {
            if self.open.len() >= MAX_IN_FLIGHT || self.unkept.len() >= MAX_UNKEPT {
                waits.push_back((want, looked));
                break;
            }
            match self.try_ask(want, looked, questions)? {
                Tried::Asked => {}
                Tried::Waits => waits.push_back((want, looked)),
                Tried::Got(got) => actions.push(AskAction::Got(want, got)),
            }
        }
        waits.append(&mut self.wanted);
        self.wanted = waits;
        // Before all is kept the receipt would come too early.
        if self.is_stopping() && self.open.is_empty() && self.is_kept() && !self.said_stop {
            self.said_stop = true;
            questions.push(ToSeller::Stop);
        }
        Ok(())
    }

    /// Places of before the break, first of all. Answers whether all of them are asked for.
    fn ask_owed(&mut self, questions: &mut Vec<ToSeller>) -> Result<bool, AskError> {
        while let Some((seq, count)) = self.owed.front().copied() {
            if self.open.len() >= MAX_IN_FLIGHT || self.unkept.len() >= MAX_UNKEPT {
                return Ok(false);
            }
            let plan = self.known.ask(seq)?;
            self.send_reading(seq, plan, questions);
            if let Some(open) = self.open.back_mut() {
                open.owed = true;
            }
            self.owed.pop_front();
            if let Some(left) = count.checked_sub(1).filter(|left| *left > 0) {
                self.owed.push_front((seq.saturating_add(1), left));
            }
        }
        Ok(true)
    }

    fn try_ask(&mut self, want: Want, looked: u64, questions: &mut Vec<ToSeller>) -> Result<Tried, AskError> {
        let size = self.known.size();
        let resizing = self.open.iter().any(|open| open.asked.resizes());
        let asks = |seq: u64| {
            self.open
                .iter()
                .any(|open| matches!(open.asked, Question::Reading { seq: other, .. } if other == seq))
        };
        match want {
            Want::Seq(seq) if self.asked.contains(seq) => return Ok(Tried::Got(Got::Same { seq })),
            Want::Seq(seq) if asks(seq) => return Ok(Tried::Waits),
            Want::Latest if resizing => return Ok(Tried::Waits),
            Want::Seq(seq) if seq >= size => {
                if resizing {
                    return Ok(Tried::Waits);
                }
                if looked < self.looked {
                    return Ok(Tried::Got(Got::Absent { size }));
                }
                self.ask_growth(questions);
                return Ok(Tried::Waits);
            }
            _ => {}
        }
        let charged = self.open.iter().filter(|open| !matches!(open.asked, Question::Grow)).count() as u64;
        let count = self.asked.count().saturating_add(charged).saturating_add(1);
        if self.price.due(count).map_or(true, |due| due > self.purchase.budget) {
            return Ok(if charged == 0 { Tried::Got(Got::Spent) } else { Tried::Waits });
        }
        if self.price.due(count)? > self.most_asked {
            return Ok(Tried::Waits);
        }
        match want {
            Want::Seq(seq) => {
                if !self.has_room_for(seq) {
                    return Ok(if charged == 0 { Tried::Got(Got::Full) } else { Tried::Waits });
                }
                let plan = self.known.ask(seq)?;
                self.send_reading(seq, plan, questions);
            }
            Want::Latest => {
                if self.asked.runs().len().saturating_add(self.open.len()) >= MAX_RUNS {
                    return Ok(if charged == 0 { Tried::Got(Got::Full) } else { Tried::Waits });
                }
                let is_here = |last: u64| self.asked.contains(last) || self.held == Some(last);
                let last = size.checked_sub(1).filter(|last| !is_here(*last));
                if last.is_some_and(asks) {
                    return Ok(Tried::Waits);
                }
                let last = last.map(|last| self.known.look(last).map(|plan| (last, plan))).transpose()?;
                let id = self.id(Question::Latest { last });
                questions.push(ToSeller::Latest { id, size, levels: last.map(|(_, plan)| plan.levels) });
            }
        }
        Ok(Tried::Asked)
    }

    /// Whether the order has a place for this reading behind those that are in flight: each of them may take a run of its own.
    fn has_room_for(&self, seq: u64) -> bool {
        let goes_on = match self.open.back().map(|open| open.asked) {
            Some(Question::Reading { seq: last, .. }) => last.checked_add(1) == Some(seq),
            Some(_) => false,
            None => return self.asked.has_room_for(seq),
        };
        goes_on || self.asked.runs().len().saturating_add(self.open.len()) < MAX_RUNS
    }

    fn send_reading(&mut self, seq: u64, plan: Plan, questions: &mut Vec<ToSeller>) {
        let id = self.id(Question::Reading { seq, plan });
        let step = self.numbers.step_to(seq);
        questions.push(ToSeller::Read { id, step, levels: plan.levels });
    }

    fn ask_growth(&mut self, questions: &mut Vec<ToSeller>) {
        let id = self.id(Question::Grow);
        questions.push(ToSeller::Grow { id, size: self.known.size() });
    }

    /// A small number, so that it takes few bytes: it is free again when its answer is here, for answers come in order.
    fn id(&mut self, asked: Question) -> u16 {
        let id = if self.open.is_empty() && self.stopped.is_none() { 0 } else { self.next_id };
        self.next_id = id.checked_add(1).filter(|next| usize::from(*next) < MAX_IN_FLIGHT).unwrap_or(0);
        self.open.push_back(Open { id, asked, owed: false });
        id
    }
}
