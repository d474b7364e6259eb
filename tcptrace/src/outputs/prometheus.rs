//! What `--metrics` serves: the figures of the moment at which a scraper asks.
//!
//! `page` writes them as Prometheus reads them; `serve` answers over HTTP.

pub mod output;
pub mod page;
pub mod serve;

#[cfg(test)]
mod tests;
