//! Who is measured: vctx, the other runtimes, bubblewrap and the floor, and the command lines of each.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Result;
use super::bundle::{Ask, Bundle};
use super::floor_words;
use super::measure;
use super::workspace::Workspace;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Has runc's command line.
    Oci,
    Bubblewrap,
    Floor,
}

#[derive(Clone, Debug)]
pub struct Peer {
    pub name: &'static str,
    pub kind: Kind,
    pub program: PathBuf,
    pub version: String,
    /// `--root`: below the workspace.
    pub state: PathBuf,
    /// Whether its `run` can be measured; the verbs can in any case.
    pub runs: bool,
    /// A library that is loaded into it first; see `preload`.
    preload: Option<PathBuf>,
}

/// Everybody, in the order of the tables. `VCTX_BENCH_NAME=/path` names another program than the one in PATH.
const EVERYBODY: [(&str, Kind); 6] = [
    ("vctx", Kind::Oci),
    ("crun", Kind::Oci),
    ("runc", Kind::Oci),
    ("youki", Kind::Oci),
    ("bwrap", Kind::Bubblewrap),
    ("floor", Kind::Floor),
];

/// Those of everybody that are there and can run the plain bundle, and why each other one is left out.
pub fn present(workspace: &mut Workspace) -> Result<(Vec<Peer>, Vec<String>)> {
    let (mut peers, mut left_out) = (vec![], vec![]);
    let bundle = Bundle::write(workspace, "probe", Ask::Plain, &["true"])?;
    for (name, kind) in EVERYBODY {
        let Some(program) = find(name) else {
            left_out.push(format!("{name} is not installed"));
            continue;
        };
        let state = workspace.state(name);
        let version = version(&program, kind);
        let mut peer = Peer { name, kind, program, version, state, runs: true, preload: None };
        workspace.clean_up_after(&peer);
        let mut tried = measure::time(&mut peer.run(&bundle, &peer.id(0))?);
        if tried.as_ref().is_err_and(|error| error.to_string().contains("hybrid mode not supported")) {
            peer.preload = Some(no_controllers(workspace)?);
            peer.version += ", shown no v2 controllers (docs/performance.md)";
            tried = measure::time(&mut peer.run(&bundle, &peer.id(1))?);
        }
        // youki 0.5 waits for a SIGCHLD that may have come before it listened, and then waits for ever.
        let ends = || measure::time(&mut peer.run(&bundle, &peer.id(0))?);
        match tried.and_then(|_| (0..5).try_for_each(|_| ends().map(drop))) {
            Ok(_) => peers.push(peer),
            Err(error) if error.to_string().contains("did not end") => {
                left_out.push(format!("{name} is measured by its other verbs only: {error}"));
                let _ = peer.delete_by_force(&peer.id(0));
                peer.runs = false;
                peers.push(peer);
            }
            Err(error) => left_out.push(format!("{name} cannot run the plain bundle: {error}")),
        }
    }
    if peers.first().is_none_or(|peer| peer.name != "vctx") {
        return Err(left_out.join("; ").into());
    }
    Ok((peers, left_out))
}

fn find(name: &str) -> Option<PathBuf> {
    let variable = format!("VCTX_BENCH_{}", name.to_uppercase());
    if let Some(path) = env::var_os(variable) {
        return Some(path.into());
    }
    match name {
        "vctx" => Some(env!("CARGO_BIN_EXE_vctx").into()),
        // Cargo names no examples to a bench; they lie beside its folder.
        "floor" => Some(env::current_exe().ok()?.parent()?.parent()?.join("examples/floor")),
        _ => measure::which(name),
    }
    .filter(|path| path.exists())
}

fn version(program: &Path, kind: Kind) -> String {
    if kind == Kind::Floor {
        return String::new();
    }
    let output =
        Command::new(program).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output).into_owned();
    let number = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
    text.split_whitespace().find(number).unwrap_or("unknown version").to_string()
}

/// crun (1.8 to 1.28) refuses a machine that has control groups of version 1 and, beside them, a version 2 tree that
/// still has a controller, though it uses version 1 alone there. This library shows it an empty list, so that it can
/// be measured; it costs crun one more mapped file, some 50 us.
fn no_controllers(workspace: &Workspace) -> Result<PathBuf> {
    let library = workspace.dir.join("no_controllers.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/no_controllers.c");
    let mut compile = Command::new("cc");
    compile.args(["-O2", "-shared", "-fPIC", "-nostartfiles", "-o"]).arg(&library).arg(source);
    measure::time(&mut compile)?;
    fs::set_permissions(&library, fs::Permissions::from_mode(0o755))?;
    Ok(library)
}

impl Peer {
    pub fn is_oci(&self) -> bool {
        self.kind == Kind::Oci
    }

    /// The name of a context that no other run and no other peer uses: control groups carry it, and they have one tree.
    pub fn id(&self, number: usize) -> String {
        format!("vctx-bench-{}-{}-{number}", std::process::id(), self.name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        if let Some(library) = &self.preload {
            command.env("LD_PRELOAD", library);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// A verb of runc's command line.
    pub fn verb(&self, words: &[&str]) -> Command {
        let mut command = self.command();
        command.arg("--root").arg(&self.state).args(words);
        command
    }

    fn with_bundle(&self, verb: &str, bundle: &Bundle, id: &str) -> Command {
        let mut command = self.verb(&[verb, "--bundle"]);
        command.arg(&bundle.dir).arg(id);
        command
    }

    /// The whole life of a context.
    pub fn run(&self, bundle: &Bundle, id: &str) -> Result<Command> {
        Ok(match self.kind {
            Kind::Oci => self.with_bundle("run", bundle, id),
            Kind::Bubblewrap => self.bubblewrap(bundle),
            Kind::Floor => {
                let mut command = self.command();
                command.args(floor_words::run(bundle)?);
                command
            }
        })
    }

    pub fn create(&self, bundle: &Bundle, id: &str) -> Command {
        self.with_bundle("create", bundle, id)
    }

    /// Creates and starts a context that stays.
    pub fn launch(&self, bundle: &Bundle, id: &str) -> Result<()> {
        measure::time(&mut self.create(bundle, id))?;
        measure::time(&mut self.verb(&["start", id])).map(drop)
    }

    pub fn delete_by_force(&self, id: &str) -> Result<()> {
        measure::time(&mut self.verb(&["delete", "--force", id])).map(drop)
    }

    /// `exec` of a program in the context `id`, or, for the floor, of its first process.
    pub fn exec(&self, id: &str, pid: u32, program: &str) -> Command {
        if self.kind == Kind::Floor {
            let mut command = self.command();
            command.args(floor_words::exec(pid, program));
            return command;
        }
        self.verb(&["exec", id, program])
    }

    /// What of the bundle bubblewrap has words for: the namespaces and the mounts, and no masks, no device rule, no
    /// control group, no limit.
    fn bubblewrap(&self, bundle: &Bundle) -> Command {
        let mut command = self.command();
        command.args([
            "--unshare-pid",
            "--unshare-net",
            "--unshare-ipc",
            "--unshare-uts",
            "--hostname",
            "context",
        ]);
        if bundle.ask == Ask::User {
            // It maps one identity, where the bundle asks for many.
            command.args(["--unshare-user", "--uid", "0", "--gid", "0"]);
        }
        command.args([
            "--ro-bind",
            bundle.root(),
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--mqueue",
            "/dev/mqueue",
        ]);
        command.args(["--ro-bind", "/sys", "/sys", "--cap-drop", "ALL"]).args(bundle.args());
        command
    }
}
