//! Files and disk: copies in and out, volumes, limits on disk, snapshots and copies of contexts, what all of it takes.

mod cp;
mod disk;
mod limits;
mod room;
mod snapshots;
mod volumes;

use crate::harness::{Case, command};
use crate::host_run::User;
use std::path::{Path, PathBuf};

pub fn cases() -> Vec<Case> {
    [cp::cases(), volumes::cases(), limits::cases(), snapshots::cases(), room::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// A folder with busybox as an image of the user's, as an argument.
pub fn image(user: &User) -> String {
    let image = user.folder.join("image");
    std::fs::create_dir(&image).unwrap();
    crate::harness::rootfs::populate(&image);
    let mut chown = std::process::Command::new("chown");
    command::run(chown.args(["-R", "--reference"]).arg(user.folder.join("home")).arg(&image)).ok();
    image.to_str().unwrap().to_owned()
}

/// A context of the user's that runs and does nothing, and its name.
#[track_caller]
pub fn idle(user: &User, options: &[&str]) -> String {
    let image = if user.folder.join("image").exists() { user.path("image") } else { image(user) };
    let name = user.marker.clone();
    let args = [&["run", "-d", "--name", &name], options, &[&image, "--", "sleep", "1000"]].concat();
    user.call(&args).ok();
    name
}

/// The same in a store on another file system: its folder `store`.
#[track_caller]
pub fn idle_in(user: &User, disk: &Path, options: &[&str]) -> String {
    let image = if user.folder.join("image").exists() { user.path("image") } else { image(user) };
    let name = format!("{}-disk", user.marker);
    let args = [&["run", "-d", "--name", &name], options, &[&image, "--", "sleep", "1000"]].concat();
    user.call_in(&disk.join("store"), &args).ok();
    name
}

/// Ends the first process of a context, and waits for it; the context and its changes stay.
#[track_caller]
pub fn stop(user: &User, name: &str) {
    user.call(&["kill", name, "KILL"]).ok();
    crate::harness::eventually("the context has stopped", 10, || {
        user.call(&["state", name]).stdout.contains("\"stopped\"").then_some(())
    });
}

/// Where the user works.
pub fn work(user: &User, name: &str) -> PathBuf {
    user.folder.join("work").join(name)
}
