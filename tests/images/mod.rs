//! `vctx image`, and contexts made from images: archives made here and by umoci and skopeo, hostile ones, and what is left
//! when a command is killed.

mod broken;
mod hostile;
pub mod made;
mod peers;
mod registries;
mod runs;
mod shared;

use crate::harness::Case;

pub fn cases() -> Vec<Case> {
    [hostile::cases(), broken::cases(), runs::cases(), shared::cases(), peers::cases(), registries::cases()]
        .into_iter()
        .flatten()
        .collect()
}
