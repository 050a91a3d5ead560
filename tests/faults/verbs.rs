//! The verbs under fault: what the context is before each, how it is called, and what must hold afterwards.

use crate::harness::tracer::{Fault, Place, Traced, follow};
use crate::harness::{Context, command, json, leaks};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Command;

/// Before a verb the context is this.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    Absent,
    Created,
    Running,
    Paused,
}

pub struct Verb {
    pub name: &'static str,
    pub ready: Ready,
    pub command: fn(&Context) -> Command,
    /// The guest has to outlive the command's death.
    pub guest_survives: bool,
}

pub const CREATE: Verb =
    Verb { name: "create", ready: Ready::Absent, command: create, guest_survives: false };
pub const START: Verb = Verb {
    name: "start",
    ready: Ready::Created,
    command: |context| words(context, &["start", &context.id]),
    guest_survives: false,
};
pub const RUN: Verb = Verb {
    name: "run",
    ready: Ready::Absent,
    command: |context| context.bundle_command("run", &[]),
    guest_survives: false,
};
pub const EXEC: Verb = Verb {
    name: "exec",
    ready: Ready::Running,
    command: |context| words(context, &["exec", &context.id, "sh", "-c", PROBE]),
    guest_survives: true,
};
pub const UPDATE: Verb = Verb {
    name: "update",
    ready: Ready::Running,
    command: |context| {
        words(
            context,
            &["update", "--memory", "83886080", "--pids-limit", "90", "--cpu-share", "600", &context.id],
        )
    },
    guest_survives: true,
};
pub const PAUSE: Verb = Verb {
    name: "pause",
    ready: Ready::Running,
    command: |context| words(context, &["pause", &context.id]),
    guest_survives: true,
};
pub const RESUME: Verb = Verb {
    name: "resume",
    ready: Ready::Paused,
    command: |context| words(context, &["resume", &context.id]),
    guest_survives: true,
};
pub const KILL: Verb = Verb {
    name: "kill",
    ready: Ready::Running,
    command: |context| words(context, &["kill", &context.id, "KILL"]),
    guest_survives: false,
};
pub const DELETE: Verb = Verb {
    name: "delete",
    ready: Ready::Running,
    command: |context| words(context, &["delete", "--force", &context.id]),
    guest_survives: false,
};

/// What a guest can say of its own confinement. Everything in it is the same in each run.
pub const PROBE: &str = "\
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|SigBlk|SigIgn)' /proc/self/status
awk '{ $1=\"\"; $2=\"\"; $3=\"\"; print }' /proc/self/mountinfo
cat /proc/self/cgroup /proc/self/limits /proc/self/oom_score_adj
echo fds /proc/$$/fd/*
cd /sys/fs/cgroup && cat memory*/memory.limit_in_bytes pids*/pids.max devices*/devices.list memory.max pids.max 2>&1
ls -ln /dev | awk '{ print $1, $3, $4, $5, $6, $NF }'
hostname; pwd; umask; id; cut -d' ' -f5,6,7 /proc/1/stat
cat /proc/sys/net/ipv4/ping_group_range; cat /proc/keys | wc -c; ls -A /sys/firmware
cat /sys/class/net/lo/flags; ls /proc/self/task | wc -l; env | sort
mkdir /tmp/by-the-filter 2>&1; touch /by-the-user /proc/sysrq-trigger 2>&1; ls /proc/self/ns | wc -l; true";

/// A context in which most steps of the child have something to do.
pub fn rich() -> Context {
    let mut context = Context::sh(PROBE);
    context.set("/process/user", json!({ "uid": 1000, "gid": 1000, "additionalGids": [50], "umask": 0o027 }));
    context.set("/process/rlimits", json!([{ "type": "RLIMIT_NOFILE", "soft": 512, "hard": 512 }]));
    context.set("/process/oomScoreAdj", json!(100));
    context.set("/linux/sysctl", json!({ "net.ipv4.ping_group_range": "0 7" }));
    context.set("/linux/resources/memory", json!({ "limit": 64 << 20 }));
    context.set("/linux/resources/pids", json!({ "limit": 100 }));
    context.push("/linux/namespaces", json!({ "type": "cgroup" }));
    context.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]);
    let refused = json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }]);
    context.set("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": refused }));
    for point in ["createRuntime", "createContainer", "poststart", "poststop"] {
        context.set(&format!("/hooks/{point}"), json!([{ "path": "/bin/true" }]));
    }
    context
}

/// The same, but the guest sleeps.
pub fn rich_and_idle() -> Context {
    let mut context = rich();
    context.args(&["sleep", "1000"]);
    context
}

fn words(context: &Context, words: &[&str]) -> Command {
    let mut command = context.command();
    command.args(words);
    command
}

fn create(context: &Context) -> Command {
    let pid_file = context.dir.join("pid");
    context.bundle_command("create", &["--pid-file", pid_file.to_str().unwrap()])
}

/// One context, used again for each fault.
pub struct Bench {
    pub context: Context,
    /// What the bundle held before.
    bundle: BTreeSet<String>,
    /// A process id: what was made since is younger.
    since: Cell<i32>,
    /// Where the guest of a `create` writes to.
    pub created: RefCell<Option<File>>,
    /// The first process, where there is one before the verb.
    pub guest: Cell<u32>,
}

impl Bench {
    pub fn new(context: Context) -> Bench {
        context.write_config();
        let bundle = names(&context.dir);
        Bench { context, bundle, since: Cell::new(0), created: RefCell::new(None), guest: Cell::new(0) }
    }

    /// Brings the context to where the verb finds it.
    #[track_caller]
    pub fn prepare(&self, verb: &Verb) {
        self.since.set(youngest());
        if verb.ready != Ready::Absent {
            let created = command::run(&mut create(&self.context)).ok();
            self.created.replace(Some(created.log));
            self.guest.set(fs::read_to_string(self.context.dir.join("pid")).unwrap().parse().unwrap());
        }
        if matches!(verb.ready, Ready::Running | Ready::Paused) {
            self.context.start().ok();
        }
        if verb.ready == Ready::Paused {
            self.context.call(&["pause", &self.context.id]).ok();
        }
    }

    /// Runs the verb with a fault.
    pub fn follow(&self, verb: &Verb, fault: Option<(Place, Fault)>) -> Traced {
        follow(&mut (verb.command)(&self.context), fault)
    }

    /// The next command finds its way: `delete --force`, or a `create` of the same id. Says what is wrong.
    pub fn recover(&self, by_creating: bool) -> Result<(), String> {
        let id = &self.context.id;
        if by_creating {
            let created = command::run(&mut create(&self.context));
            // What was killed after its last step has left a context.
            if created.code != 0 && !created.stderr.contains("already") {
                return Err(format!("the next create: {}", created.stderr));
            }
        }
        let deleted = self.context.call(&["delete", "--force", id]);
        if deleted.code != 0 {
            return Err(format!("the next delete: {}", deleted.stderr));
        }
        let (dir, state) = (&self.context.dir, &self.context.state_root);
        let mut left = leaks::settle_quickly(id, dir, state, self.since.get());
        // The pid file is the caller's, whose next create replaces it.
        let caller = ["pid", ".pid.new", "state"];
        let new = names(&self.context.dir).into_iter().filter(|name| !self.bundle.contains(name));
        left.extend(
            new.filter(|name| !caller.contains(&name.as_str())).map(|name| format!("bundle: {name}")),
        );
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:#?}")) }
    }
}

/// The id of a process that has just ended; 0 where ids are about to begin anew, for all are younger than that.
fn youngest() -> i32 {
    let mut process = Command::new("/bin/true").spawn().unwrap();
    let id = process.id() as i32;
    process.wait().unwrap();
    let most: i32 = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap().trim().parse().unwrap();
    if id > most - 2000 { 0 } else { id }
}

pub fn names(folder: &std::path::Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).map(|list| list.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
