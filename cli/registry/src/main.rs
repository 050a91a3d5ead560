//! `vctx-registry JOB`: pulls an image from a registry into the store, looks at its signatures, or pushes one. vctx calls it, see
//! `vctx_storage::image::remote`; for people there are `vctx image pull` and `push`.
//!
//! `client` speaks the distribution protocol, `auth` finds credentials and tokens, `policy` and `signature` say which
//! images are let in; `pull` and `push` are the jobs.

mod auth;
mod challenge;
mod client;
mod credentials;
mod error;
mod policy;
mod progress;
mod pull;
mod push;
mod signature;

use std::io::Write;
use std::process::ExitCode;

use vctx_storage::image::remote::{Job, Verb};

use error::Error;

fn main() -> ExitCode {
    let Some(job) = std::env::args().nth(1) else {
        return fail(&"vctx calls this program; people use `vctx image pull` and `vctx image push`");
    };
    let done = serde_json::from_str(&job).map_err(Error::Job).and_then(|job: Job| match job.verb {
        Verb::Pull => pull::run(&job),
        Verb::Push => push::run(&job),
        Verb::Verify => pull::verify(&job),
    });
    match done {
        Ok(line) => {
            // Whoever reads it may have gone.
            let _ = writeln!(std::io::stdout(), "{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let chain = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            fail(&chain.map(ToString::to_string).collect::<Vec<_>>().join(": "))
        }
    }
}

/// What comes from a registry cannot drive the terminal.
fn fail(message: &dyn std::fmt::Display) -> ExitCode {
    let text: String = message.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _ = writeln!(std::io::stderr(), "vctx: error: {text}");
    ExitCode::FAILURE
}
