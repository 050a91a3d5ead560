//! `vctx image`, and contexts made from images: archives made here and by umoci and skopeo, hostile ones, and what is left
//! when a command is killed.

mod broken;
mod crash;
mod engines;
mod faults;
mod hostile;
pub mod made;
mod peers;
mod registries;
mod runs;
mod shared;
mod signatures;
mod sources;

use crate::harness::Case;

pub fn cases() -> Vec<Case> {
    let all = [
        hostile::cases(),
        broken::cases(),
        runs::cases(),
        shared::cases(),
        peers::cases(),
        registries::cases(),
        signatures::cases(),
        sources::cases(),
        crash::cases(),
        engines::cases(),
        faults::cases(),
    ];
    all.into_iter().flatten().collect()
}
