//! Fans events out to the outputs, and counts down `--count`.

use std::{future::poll_fn, os::fd::OwnedFd, task::Poll};

use crate::{
    events::{EventSink, Figures, Record},
    outputs::{Output, writer::WriteEnd},
};

/// Hands each event to every output.
#[derive(Default)]
pub struct Publisher {
    outputs: Vec<Box<dyn Output>>,
    /// How many more records of the views are wanted; `None`: all.
    left: Option<u64>,
}

/// What an output needs of the loop that feeds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// It has ended before its time.
    Ended,
    /// It wants the figures of the moment: [`Publisher::show_figures`].
    FiguresWanted,
}

impl EventSink for Publisher {
    fn is_open(&self) -> bool {
        self.left != Some(0)
    }

    fn publish(&mut self, record: Record) {
        let counts = record.event.is_of_a_view();
        if counts && !self.is_open() {
            return;
        }
        let Some((last, others)) = self.outputs.split_last_mut() else { return };
        let mut is_shown = false;
        for output in others {
            is_shown |= output.publish(record.clone());
        }
        is_shown |= last.publish(record);
        if counts
            && is_shown
            && let Some(left) = &mut self.left
        {
            *left -= 1;
        }
    }
}

impl Publisher {
    /// Publishes `count` records of the views, or all.
    pub fn new(count: Option<u64>) -> Self {
        Self { outputs: Vec::new(), left: count }
    }

    /// Adds an output.
    pub fn add(&mut self, output: impl Output + 'static) {
        self.outputs.push(Box::new(output));
    }

    /// Shows what has waited long enough by now.
    pub fn flush(&mut self, now_ns: u64) {
        self.outputs.iter_mut().for_each(|output| output.flush(now_ns));
    }

    /// Shows what has become much, or has waited long enough, and waits for slow readers.
    pub fn flush_and_wait(&mut self, now_ns: u64) {
        self.outputs.iter_mut().for_each(|output| output.flush_and_wait(now_ns));
    }

    /// Shows the roll-ups that were just published.
    pub fn settle_roll_ups(&mut self, now_ns: u64) {
        self.outputs.iter_mut().for_each(|output| output.settle_roll_ups(now_ns));
    }

    /// Shows all that still waits in the outputs.
    pub fn flush_all(&mut self) {
        self.outputs.iter_mut().for_each(|output| output.flush_all());
    }

    /// When [`Self::flush`] is to be called next.
    pub fn flush_due_ns(&self) -> Option<u64> {
        self.outputs.iter().filter_map(|output| output.flush_due_ns()).min()
    }

    /// Before this time roll-ups come too early.
    pub fn ready_ns(&self) -> u64 {
        self.outputs.iter().map(|output| output.ready_ns()).max().unwrap_or(0)
    }

    /// How many records were dropped, by the output that dropped most.
    pub fn dropped(&self) -> u64 {
        self.outputs.iter().map(|output| output.dropped()).max().unwrap_or(0)
    }

    /// Whether an output has ended before its time.
    pub fn has_ended(&self) -> bool {
        self.outputs.iter().any(|output| output.has_ended())
    }

    /// Waits until an output has ended before its time, or wants the figures of the moment.
    pub async fn wants_attention(&mut self) -> Attention {
        let mut ends: Vec<_> = self.outputs.iter().map(|output| output.ended()).collect();
        poll_fn(|context| {
            if ends.iter_mut().any(|end| end.as_mut().poll(context).is_ready()) {
                return Poll::Ready(Attention::Ended);
            }
            let mut outputs = self.outputs.iter_mut();
            if outputs.any(|output| output.poll_figures_wanted(context).is_ready()) {
                return Poll::Ready(Attention::FiguresWanted);
            }
            Poll::Pending
        })
        .await
    }

    /// The file that a reader has to take records from.
    pub fn reader(&self) -> Option<&OwnedFd> {
        self.outputs.iter().find_map(|output| output.reader())
    }

    /// Opens the outputs' files again.
    pub fn reopen(&self) {
        self.outputs.iter().for_each(|output| output.reopen());
    }

    /// Shows the figures of the moment where they are wanted.
    pub fn show_figures(&mut self, figures: &Figures) {
        self.outputs.iter_mut().for_each(|output| output.show_figures(figures));
    }

    /// Delivers what is left, and says for each output that delivers how it ended.
    pub fn finish(mut self) -> Vec<WriteEnd> {
        self.flush_all();
        self.outputs.into_iter().filter_map(Output::finish).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::*;
    use crate::{
        events::{Event, Instant, Lost, LostReason, Resync, Summary},
        testing::read_record,
    };

    /// Notes what it is given, and takes every second record only.
    #[derive(Default)]
    struct Choosy {
        given: Rc<RefCell<Vec<&'static str>>>,
    }

    impl Output for Choosy {
        fn publish(&mut self, record: Record) -> bool {
            let mut given = self.given.borrow_mut();
            given.push(record.event.name());
            given.len().is_multiple_of(2)
        }
    }

    fn record(event: Event) -> Record {
        Record { at: Instant { wall_ns: 0, mono_ns: 0 }, event }
    }

    fn cleared() -> Record {
        let text = r#"{"cookie":6,"netns":7,"family":"ipv4","local_addr":"10.0.0.1","local_port":80,"remote_addr":"10.0.0.2","remote_port":4000,"state":"CLOSE_WAIT","new_state":"CLOSE","in_state_ms":2000.0,"by":null,"how":"reset"}"#;
        record(Event::Cleared(read_record(text).expect("a record")))
    }

    #[test]
    fn every_output_gets_every_record() {
        let (one, other) = (Choosy::default(), Choosy::default());
        let given = [Rc::clone(&one.given), Rc::clone(&other.given)];
        let mut publisher = Publisher::new(None);
        publisher.add(one);
        publisher.add(other);
        publisher.publish(cleared());
        publisher.publish(record(Event::Resync(Resync { sockets: 0, repaired: 0, found: None })));
        for given in given {
            assert_eq!(*given.borrow(), ["cleared", "resync"]);
        }
    }

    #[test]
    fn the_count_is_of_records_of_the_views_that_were_shown() {
        let output = Choosy::default();
        let given = Rc::clone(&output.given);
        let mut publisher = Publisher::new(Some(2));
        publisher.add(output);
        // Shown: the second and the fourth.
        for _ in 0..6 {
            publisher.publish(cleared());
        }
        assert!(!publisher.is_open());
        assert_eq!(given.borrow().len(), 4, "what comes after is not wanted");
        let lost = Lost { lost: 1, lost_total: 1, reason: LostReason::RingFull };
        publisher.publish(record(Event::Lost(lost)));
        publisher.publish(record(Event::Summary(Summary::default())));
        assert_eq!(given.borrow()[4..], ["lost", "summary"], "notices and totals are of no view");
    }
}
