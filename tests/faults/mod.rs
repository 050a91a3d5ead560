//! Faults at every system call of every verb, by a tracer and not by luck; and what no single call can show: races, a
//! full state folder, hooks that hang.
//!
//! [`verbs`] says what is run, on what, and what must hold afterwards; [`kills`] and [`injections`] go over the calls,
//! and [`stores`] over those of networks and images.
//! `VCTX_FAULTS=all` (the recipe `make test-faults`) takes every call; otherwise the longer verbs are sampled, with another
//! offset each day, which is printed.

mod errors;
mod injections;
mod kills;
mod others;
pub mod soak;
mod stores;
mod verbs;

use crate::harness::Case;
use std::time::{SystemTime, UNIX_EPOCH};

pub fn cases() -> Vec<Case> {
    [kills::cases(), injections::cases(), stores::cases(), others::cases()].into_iter().flatten().collect()
}

/// Takes every `step`th of what it is asked about, all where everything is wanted.
struct Sample {
    step: usize,
    offset: usize,
}

impl Sample {
    fn every(usual: usize) -> Sample {
        let step = match std::env::var("VCTX_FAULTS").as_deref() {
            Ok("all") => 1,
            Ok(step) => step.parse().expect("VCTX_FAULTS is `all` or a number"),
            Err(_) => usual,
        };
        let day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as usize / 86400;
        Sample { step, offset: day % step }
    }

    fn takes(&self, index: usize) -> bool {
        index % self.step == self.offset
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.step {
            1 => write!(formatter, "every call"),
            step => write!(formatter, "every {step}th call from {}", self.offset),
        }
    }
}
