//! Metrics as an output: the figures of the moment, whenever somebody scrapes them.

use std::task::{Context, Poll};

use crate::{
    events::{Figures, Record},
    outputs::{
        Output,
        prometheus::serve::{Scrape, Scrapes},
    },
};

/// Answers scrapes with the figures of the moment.
pub struct PrometheusOutput {
    scrapes: Scrapes,
    /// Those that wait for the figures.
    waiting: Vec<Scrape>,
}

impl PrometheusOutput {
    /// Answers these scrapes.
    pub const fn new(scrapes: Scrapes) -> Self {
        Self { scrapes, waiting: Vec::new() }
    }
}

impl Output for PrometheusOutput {
    /// Figures are counted by the engine: a record by itself changes none.
    fn publish(&mut self, _record: Record) -> bool {
        false
    }

    fn poll_figures_wanted(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Poll::Ready(scrape) = self.scrapes.poll_next(context) else { return Poll::Pending };
        self.waiting.push(scrape);
        Poll::Ready(())
    }

    fn show_figures(&mut self, figures: &Figures) {
        for scrape in self.waiting.drain(..) {
            scrape.answer(figures.clone());
        }
    }
}
