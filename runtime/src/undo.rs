//! What a verb has done so far, and how to undo it when a later step fails.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use vctx_context::cgroup::Cgroup;
use vctx_context::idmap::Mappings;
use vctx_context::spawn::{Child, reap};
use vctx_netns::device::Moved;

use crate::network::Attached;
use crate::network::outer::Maker;

/// Undoes its steps, the last one first, unless it was told to keep them. It goes on over errors: what cannot be undone
/// now is found by the next `delete` through the state, which is undone last.
#[derive(Default)]
pub(crate) struct Undo {
    steps: Vec<Step>,
}

pub(crate) enum Step {
    RemoveFile(PathBuf),
    RemoveFolder(PathBuf),
    /// A folder in which the guest's ids may have made something.
    RemoveOwn(PathBuf, Mappings),
    RemoveCgroup(Cgroup),
    ReturnDevice(Moved),
    /// The address of the host that a context is held to, by its state root and id.
    LetGo(PathBuf, String),
    /// The lease of a context, by its state root and id.
    LeaveNetwork(PathBuf, String, Attached),
    /// What others have made for its network, by its folder, its id and who they are.
    EndOuter(PathBuf, String, Maker),
    Kill(Child),
}

impl Undo {
    /// Remembers how to undo what was just done.
    pub(crate) fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// The same for what holds the child, and can only be undone when that is gone.
    pub(crate) fn push_below_child(&mut self, step: Step) {
        let child = self.steps.iter().position(|step| matches!(step, Step::Kill(_)));
        self.steps.insert(child.unwrap_or(self.steps.len()), step);
    }

    /// Everything succeeded.
    pub(crate) fn keep(mut self) -> Option<Child> {
        self.steps.drain(..).find_map(|step| if let Step::Kill(child) = step { Some(child) } else { None })
    }

    /// The child of the steps.
    pub(crate) fn child(&self) -> Option<&Child> {
        self.steps.iter().find_map(|step| if let Step::Kill(child) = step { Some(child) } else { None })
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for step in self.steps.drain(..).rev() {
            match step {
                Step::RemoveFile(path) => drop(fs::remove_file(path)),
                Step::RemoveFolder(path) => drop(vctx_remove::tree(&path)),
                Step::RemoveOwn(path, mappings) => {
                    drop(crate::delete::remove_own(&path, || Ok(mappings)));
                }
                Step::RemoveCgroup(cgroup) => {
                    // Where the pid namespace is shared, the death of the first process ends no other.
                    let _ = cgroup.kill_all();
                    let _ = cgroup.remove();
                }
                Step::ReturnDevice(device) => drop(device.back()),
                Step::LeaveNetwork(root, id, attached) => {
                    drop(crate::network::leave(&root, &id, &attached));
                }
                Step::EndOuter(folder, id, maker) => drop(crate::network::outer::end(&folder, &id, &maker)),
                Step::LetGo(root, id) => drop(crate::network::let_go(&root, &id)),
                Step::Kill(child) => {
                    let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
                    reap(&child);
                }
            }
        }
    }
}
