//! One context under test: a bundle, a state root of its own, and the runtime's commands on it.
//!
//! Dropping it deletes the context by force; unless the case has failed already, anything that is then left of it
//! fails the case.

use super::command::{self, BOUND, Output};
use super::{leaks, rootfs, spec};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub struct Context {
    pub id: String,
    pub spec: Value,
    /// The bundle.
    pub dir: PathBuf,
    /// Where the runtime keeps its state: `--root`.
    pub state_root: PathBuf,
    /// Further options that stand before the verb.
    pub options: Vec<String>,
    log: Option<File>,
}

impl Context {
    /// A bundle with the base specification, of which nothing is started yet.
    pub fn new() -> Context {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("vt-{}-{number}", std::process::id());
        let dir = rootfs::workspace().join(&id);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        rootfs::populate(&dir.join("rootfs"));
        let state_root = dir.join("state");
        Context { spec: spec::base(&id), state_root, options: vec![], id, dir, log: None }
    }

    /// A context whose first process is `script`, in busybox's shell.
    pub fn sh(script: &str) -> Context {
        let mut context = Context::new();
        context.args(&["sh", "-c", script]);
        context
    }

    /// A running context that does nothing until it is killed.
    #[track_caller]
    pub fn idle() -> Context {
        let mut context = Context::new();
        context.args(&["sleep", "1000"]);
        context.launch();
        context
    }

    pub fn args(&mut self, args: &[&str]) {
        self.set("/process/args", json!(args));
    }

    /// Puts `value` at the JSON pointer, making the objects on the way.
    pub fn set(&mut self, pointer: &str, value: Value) {
        let mut place = &mut self.spec;
        for key in pointer.split('/').skip(1) {
            place = match place {
                Value::Array(items) => &mut items[key.parse::<usize>().unwrap()],
                other => &mut other[key],
            };
        }
        *place = value;
    }

    pub fn push(&mut self, pointer: &str, value: Value) {
        if self.spec.pointer(pointer).is_none() {
            self.set(pointer, json!([]));
        }
        self.spec.pointer_mut(pointer).unwrap().as_array_mut().unwrap().push(value);
    }

    pub fn mount(&mut self, target: &str, kind: &str, source: impl AsRef<Path>, options: &[&str]) {
        let source = source.as_ref().to_str().unwrap();
        self.push(
            "/mounts",
            json!({ "destination": target, "type": kind, "source": source, "options": options }),
        );
    }

    pub fn bind(&mut self, target: &str, source: impl AsRef<Path>, options: &[&str]) {
        self.mount(target, "bind", source, options);
    }

    pub fn without_namespace(&mut self, kind: &str) {
        let list = self.spec.pointer_mut("/linux/namespaces").unwrap().as_array_mut().unwrap();
        list.retain(|namespace| namespace["type"] != kind);
    }

    pub fn join_namespace(&mut self, kind: &str, path: &str) {
        self.without_namespace(kind);
        self.push("/linux/namespaces", json!({ "type": kind, "path": path }));
    }

    /// A path inside the root filesystem, as the host sees it.
    pub fn root(&self, path: &str) -> PathBuf {
        self.dir.join("rootfs").join(path.trim_start_matches('/'))
    }

    /// A file of the bundle, beside the root filesystem.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Writes `config.json`; every command that reads it does this first.
    pub fn write_config(&self) {
        fs::write(self.dir.join("config.json"), self.spec.to_string()).unwrap();
    }

    /// The runtime with this context's state root; the caller adds the verb.
    pub fn command(&self) -> Command {
        let mut command = Command::new(super::runtime());
        command.arg("--root").arg(&self.state_root).args(&self.options).env("VCTX_TEST_ID", &self.id);
        command
    }

    /// Runs `runtime --root DIR ARGS...` as it stands.
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Output {
        command::run(self.command().args(args))
    }

    /// `create` or `run` with this bundle and `options`.
    pub fn bundle_command(&self, verb: &str, options: &[&str]) -> Command {
        self.write_config();
        let mut command = self.command();
        command.arg(verb).arg("--bundle").arg(&self.dir).args(options).arg(&self.id);
        command
    }

    /// `run` to the end of the first process.
    #[track_caller]
    pub fn run(&self) -> Output {
        command::run(&mut self.bundle_command("run", &[]))
    }

    /// `run`, insisting on exit code 0: the output of the first process, trimmed.
    #[track_caller]
    pub fn prints(&self) -> String {
        self.run().ok().line().to_string()
    }

    #[track_caller]
    pub fn create(&mut self) -> Output {
        let output = command::run(&mut self.bundle_command("create", &[]));
        self.log = Some(output.log.try_clone().unwrap());
        output
    }

    /// Creates and starts.
    #[track_caller]
    pub fn launch(&mut self) {
        self.create().ok();
        self.start().ok();
    }

    #[track_caller]
    pub fn start(&self) -> Output {
        self.call(&["start", &self.id])
    }

    #[track_caller]
    pub fn kill(&self, signal: &str) -> Output {
        self.call(&["kill", &self.id, signal])
    }

    #[track_caller]
    pub fn delete(&self) -> Output {
        self.call(&["delete", &self.id])
    }

    /// `exec` of `args`; options of exec come first in `options`.
    #[track_caller]
    pub fn exec(&self, options: &[&str], args: &[&str]) -> Output {
        command::run(self.command().arg("exec").args(options).arg(&self.id).args(args))
    }

    /// `exec` of a shell script.
    #[track_caller]
    pub fn exec_sh(&self, script: &str) -> Output {
        self.exec(&[], &["sh", "-c", script])
    }

    #[track_caller]
    pub fn state(&self) -> Value {
        let output = self.call(&["state", &self.id]).ok();
        serde_json::from_str(&output.stdout).unwrap()
    }

    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_string()
    }

    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.state()["pid"].as_u64().unwrap() as u32
    }

    /// What the created context has printed so far.
    pub fn output(&self) -> String {
        command::text(self.log.as_ref().expect("a created context"))
    }

    /// Waits for the end of the first process, which `start` has let go.
    #[track_caller]
    pub fn wait_stopped(&self) {
        let state = self.state();
        if state["status"] != "stopped" {
            let pid = state["pid"].as_u64().unwrap() as u32;
            assert!(command::wait_for_exit(pid, BOUND), "process {pid} did not end");
        }
        super::eventually("the status stopped", 10, || (self.status() == "stopped").then_some(()));
    }

    /// Insists that neither the host nor the state root holds anything of this context.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let left = leaks::of(&self.id, &self.dir, &self.state_root);
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let deleted = command::quietly(self.command().args(["delete", "--force", &self.id])).stderr;
        let left = leaks::settle(&self.id, &self.dir, &self.state_root);
        leaks::clean(&self.id, &self.dir);
        let _ = fs::remove_dir_all(&self.dir);
        assert!(failed || left.is_empty(), "left after delete --force ({deleted:?}): {left:#?}");
    }
}
