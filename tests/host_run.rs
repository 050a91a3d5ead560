//! `vctx run host -- CMD` and its relatives: the machine's own root as a copy-on-write image, and folders as images.

use crate::harness::pty::Terminal;
use crate::harness::{Case, Need, Output, case, command, leaks, rootfs, runtime};
use nix::unistd::Uid;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

pub fn cases() -> Vec<Case> {
    let as_root = vec![
        case!(root_changes_its_copy_of_etc_and_not_the_hosts),
        case!(changes_are_kept_until_the_context_is_deleted),
        case!(limits_are_set_in_the_control_groups),
        case!(another_user_is_taken_by_number_and_by_name),
    ];
    let as_anyone = vec![
        case!(an_ordinary_user_changes_a_copy_of_etc_and_not_the_hosts),
        case!(the_exit_code_is_passed_on),
        case!(what_fails_before_the_command_has_the_codes_of_a_shell),
        case!(home_folders_are_hidden),
        case!(a_shared_path_is_the_hosts),
        case!(a_read_only_share_refuses_writes),
        case!(the_working_folder_is_carried_along_when_shared),
        case!(rm_leaves_nothing),
        case!(a_folder_is_an_image),
        case!(environment_and_working_folder_are_options),
        case!(a_read_only_root_is_an_option),
        case!(capabilities_are_dropped),
        case!(detached_under_a_name_it_can_be_entered_and_deleted),
        case!(a_terminal_is_given_when_asked_for),
        case!(the_network_is_loopback_only_and_up),
        case!(only_its_own_processes_are_visible),
        case!(standard_input_is_passed_through),
        case!(unknown_images_and_names_are_refused),
        case!(the_default_filter_refuses_rarely_needed_calls).needs(Need::Program("python3")),
    ];
    let as_root = as_root.into_iter().map(|case| case.needs(Need::Root));
    as_root.chain(as_anyone).collect()
}

/// A user at a shell, with a state root and home of their own.
pub struct User {
    pub folder: PathBuf,
    uid: u32,
    pub marker: String,
}

impl User {
    /// Whoever runs the tests.
    pub fn me() -> User {
        User::with_uid(Uid::effective().as_raw())
    }

    /// A user without any privilege.
    pub fn ordinary() -> User {
        User::with_uid(if Uid::effective().is_root() { 65534 } else { Uid::effective().as_raw() })
    }

    fn with_uid(uid: u32) -> User {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let marker = format!("vh-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = rootfs::workspace().join(&marker);
        for name in ["", "run", "data", "home", "work"] {
            fs::create_dir(folder.join(name)).unwrap();
            chown(folder.join(name), Some(uid), Some(uid)).unwrap();
        }
        User { folder, uid, marker }
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_string()
    }

    pub fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// vctx with a state root of this user's.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(runtime_for_everybody());
        command.arg("--root").arg(self.store()).args(args);
        command.env("VCTX_TEST_ID", &self.marker).current_dir(self.folder.join("work"));
        command.env("HOME", self.path("home")).env("XDG_RUNTIME_DIR", self.path("run"));
        command.env("XDG_DATA_HOME", self.path("data"));
        if Uid::from_raw(self.uid) != Uid::effective() {
            // When root sets the uid, std drops the supplementary groups as well.
            command.uid(self.uid).gid(self.uid);
        }
        command
    }
}

/// The runtime where every user can reach it: the build folder may lie in a home.
pub fn runtime_for_everybody() -> &'static PathBuf {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let copy = rootfs::workspace().join("vctx");
        fs::copy(runtime(), &copy).unwrap();
        // The program for registries is missing where only this one was built.
        let _ = fs::copy(runtime().with_file_name("vctx-registry"), copy.with_file_name("vctx-registry"));
        copy
    })
}

impl User {
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Output {
        command::run(&mut self.command(args))
    }

    /// The same with another state root.
    #[track_caller]
    pub fn call_in(&self, root: &Path, args: &[&str]) -> Output {
        command::run(&mut self.command_in(root, args))
    }

    pub fn command_in(&self, root: &Path, args: &[&str]) -> Command {
        let command = self.command(args);
        let mut other = Command::new(command.get_program());
        other.arg("--root").arg(root).args(args).current_dir(self.folder.join("work"));
        other.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        other
    }

    /// `vctx run --rm OPTIONS host -- ARGS`.
    #[track_caller]
    fn run(&self, options: &[&str], args: &[&str]) -> Output {
        self.call(&[&["run", "--rm"], options, &["host", "--"], args].concat())
    }

    #[track_caller]
    fn sh(&self, options: &[&str], script: &str) -> Output {
        self.run(options, &["sh", "-c", script])
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        for id in command::quietly(&mut self.command(&["list", "-q"])).stdout.lines() {
            command::quietly(&mut self.command(&["delete", "--force", id]));
        }
        let left = leaks::settle(&self.marker, &self.folder, &self.store());
        leaks::clean(&self.marker, &self.folder);
        let _ = fs::remove_dir_all(&self.folder);
        assert!(failed || left.is_empty(), "left behind: {left:#?}");
    }
}

/// Names, owners, sizes and times of the host's /etc, and whether a file of this name is there.
/// The host's /etc. Two of its files are made by other tests where a machine lacks them, which changes the folder's own
/// line as well.
fn etc() -> String {
    let listing = command::run(Command::new("ls").args(["-laR", "--time-style=full-iso", "/etc"])).stdout;
    let others = [" subuid", " subgid", " subuid-", " subgid-", " ."];
    listing
        .lines()
        .filter(|line| !others.iter().any(|end| line.ends_with(end)))
        .collect::<Vec<_>>()
        .join("\n")
}

fn changes_only_its_copy(user: &User) {
    let before = etc();
    let script =
        "touch /etc/x && echo changed >> /etc/passwd && rm /etc/hostname; ls /etc/x; tail -1 /etc/passwd";
    let printed = user.sh(&[], script).ok();
    assert_eq!(printed.line(), "/etc/x\nchanged");
    user.run(&[], &["touch", "/etc/x"]).ok();
    assert_eq!(etc(), before);
    assert!(!fs::exists("/etc/x").unwrap());
}

fn root_changes_its_copy_of_etc_and_not_the_hosts() {
    changes_only_its_copy(&User::me());
}

fn an_ordinary_user_changes_a_copy_of_etc_and_not_the_hosts() {
    let user = User::ordinary();
    let before = etc();
    user.sh(&[], "touch /etc/x && ls /etc/x").ok();
    assert_eq!(user.sh(&[], "ls /etc/x 2>/dev/null || echo fresh").ok().line(), "fresh");
    assert_eq!(etc(), before);
    assert!(!fs::exists("/etc/x").unwrap());
}

fn the_exit_code_is_passed_on() {
    for user in [User::me(), User::ordinary()] {
        user.sh(&[], "exit 7").exits(7);
        user.sh(&[], "sh -c 'kill -KILL $$'; exit $?").exits(137);
    }
}

fn what_fails_before_the_command_has_the_codes_of_a_shell() {
    let user = User::ordinary();
    user.run(&[], &["nonsense"]).exits(127).refused_with(&["nonsense"]);
    user.run(&[], &["/etc/passwd"]).exits(126).refused_with(&["permission denied"]);
    user.run(&["--memory", "nonsense"], &["true"]).exits(125);
}

fn home_folders_are_hidden() {
    for user in [User::me(), User::ordinary()] {
        assert_eq!(
            user.sh(&[], "ls -A /home /root | grep -vE '^(/home:|/root:|)$' | wc -l").ok().line(),
            "0"
        );
    }
}

fn a_shared_path_is_the_hosts() {
    for user in [User::me(), User::ordinary()] {
        let work = user.path("work");
        fs::write(user.folder.join("work/in"), "from the host").unwrap();
        let script = format!("cat {work}/in; echo from inside > {work}/out");
        assert_eq!(user.sh(&["--share", &work], &script).ok().line(), "from the host");
        assert_eq!(fs::read_to_string(user.folder.join("work/out")).unwrap(), "from inside\n");
    }
}

fn a_read_only_share_refuses_writes() {
    for user in [User::me(), User::ordinary()] {
        let work = user.path("work");
        fs::write(user.folder.join("work/in"), "from the host").unwrap();
        let script = format!("cat {work}/in; touch {work}/out || echo refused");
        let printed = user.sh(&["--share", &format!("{work}:ro")], &script).ok();
        assert_eq!(printed.line(), "from the hostrefused");
        assert!(!user.folder.join("work/out").exists());
    }
}

fn the_working_folder_is_carried_along_when_shared() {
    let user = User::ordinary();
    let work = user.path("work");
    assert_eq!(user.run(&["--share", &work], &["pwd"]).ok().line(), work);
}

fn rm_leaves_nothing() {
    for user in [User::me(), User::ordinary()] {
        user.sh(&[], "head -c 1000000 /dev/zero > /var/tmp/large").ok();
        // The folders of the store itself stay for the next context.
        let kept = command::run(Command::new("find").arg(user.store()).args(["-mindepth", "3"]));
        assert_eq!(kept.stdout, "");
    }
}

fn changes_are_kept_until_the_context_is_deleted() {
    let user = User::me();
    let name = user.marker.clone();
    user.call(&["run", "--name", &name, "host", "--", "sh", "-c", "echo kept > /etc/kept"]).ok();
    assert!(user.call(&["list", "-q"]).ok().stdout.contains(&name));
    let kept = command::run(Command::new("grep").args(["-rl", "kept"]).arg(user.store()));
    assert!(kept.stdout.contains("etc/kept"), "{}", kept.stdout);
    user.call(&["delete", "--force", &name]).ok();
    assert!(!user.call(&["list", "-q"]).ok().stdout.contains(&name));
    let left = command::run(Command::new("grep").args(["-rl", "kept"]).arg(user.store()));
    assert_eq!(left.stdout, "");
}

fn a_folder_is_an_image() {
    for user in [User::me(), User::ordinary()] {
        let image = user.folder.join("image");
        fs::create_dir(&image).unwrap();
        rootfs::populate(&image);
        // What belongs to another user than those that the namespace maps, nobody in it can change.
        command::run(Command::new("chown").args(["-R", "--reference"]).arg(&user.folder).arg(&image)).ok();
        let folder = image.to_str().unwrap();
        let script = "echo changed > /etc/passwd; cat /etc/passwd; test ! -e /image";
        let printed = user.call(&["run", "--rm", folder, "--", "sh", "-c", script]).ok();
        assert_eq!(printed.line(), "changed");
        assert!(fs::read_to_string(image.join("etc/passwd")).unwrap().starts_with("root:"));
    }
}

fn environment_and_working_folder_are_options() {
    let user = User::ordinary();
    let options = ["-e", "ONE=1", "--env", "TWO=a b", "-w", "/usr/bin"];
    assert_eq!(user.sh(&options, "echo $ONE,$TWO; pwd").ok().line(), "1,a b\n/usr/bin");
}

fn limits_are_set_in_the_control_groups() {
    let user = User::me();
    let name = user.marker.clone();
    let limits = ["--memory", "64M", "--pids", "50", "--cpus", "0.5"];
    user.call(&[&["run", "-d", "--name", &name], &limits[..], &["host", "--", "sleep", "1000"]].concat())
        .ok();
    let read = |file: &str| {
        let groups = leaks::control_groups(&name).into_iter();
        groups
            .filter_map(|group| fs::read_to_string(group.join(file)).ok())
            .next()
            .map(|text| text.trim().to_string())
    };
    let memory = read("memory.limit_in_bytes").or_else(|| read("memory.max"));
    assert_eq!(memory, Some((64 << 20).to_string()));
    assert_eq!(read("pids.max").as_deref(), Some("50"));
    let quota = read("cpu.cfs_quota_us").or_else(|| read("cpu.max")).unwrap();
    assert!(quota.starts_with("50000"), "{quota}");
    user.call(&["delete", "--force", &name]).ok();
}

fn another_user_is_taken_by_number_and_by_name() {
    let user = User::me();
    assert_eq!(user.sh(&["--user", "1234:567"], "id -u; id -g; id -G").ok().line(), "1234\n567\n567");
    assert_eq!(user.run(&["--user", "nobody"], &["id", "-un"]).ok().line(), "nobody");
    user.run(&["--user", "nobody-of-this-name"], &["true"]).exits(125);
}

fn a_read_only_root_is_an_option() {
    for user in [User::me(), User::ordinary()] {
        assert_eq!(
            user.sh(&["--read-only"], "touch /etc/x 2>/dev/null || echo refused").ok().line(),
            "refused"
        );
    }
}

fn capabilities_are_dropped() {
    let user = User::me();
    let script = "grep -E 'Cap(Eff|Bnd)' /proc/self/status | cut -f2 | sort -u";
    assert_eq!(user.sh(&["--cap-drop", "all"], script).ok().line(), "0000000000000000");
    let printed = user.sh(&["--cap-drop", "all", "--cap-add", "CAP_KILL"], script).ok();
    assert_eq!(printed.line(), "0000000000000020");
}

fn detached_under_a_name_it_can_be_entered_and_deleted() {
    for user in [User::me(), User::ordinary()] {
        let name = user.marker.clone();
        user.call(&["run", "-d", "--name", &name, "host", "--", "sleep", "1000"]).ok();
        assert!(user.call(&["state", &name]).ok().stdout.contains("running"));
        assert_eq!(
            user.call(&["exec", &name, "sh", "-c", "echo inside > /etc/y; cat /etc/y"]).ok().line(),
            "inside"
        );
        user.call(&["exec", &name, "sh", "-c", "exit 5"]).exits(5);
        user.call(&["delete", "--force", &name]).ok();
        user.call(&["state", &name]).refused();
        assert!(!fs::exists("/etc/y").unwrap());
    }
}

fn a_terminal_is_given_when_asked_for() {
    let user = User::ordinary();
    let args = ["run", "--rm", "-t", "host", "--", "sh", "-c", "test -t 0 && echo terminal; read x; exit $x"];
    let (mut child, mut terminal) = Terminal::spawn(&mut user.command(&args));
    terminal.expect("terminal");
    terminal.type_in("9\n");
    assert_eq!(command::exit_code(&mut child), 9);
}

fn the_network_is_loopback_only_and_up() {
    for user in [User::me(), User::ordinary()] {
        let script =
            "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; cat /proc/net/fib_trie | grep -c 127.0.0.1";
        let printed = user.sh(&[], script).ok();
        let (device, local) = printed.line().split_once('\n').unwrap();
        assert_eq!(device, "lo");
        assert_ne!(local, "0", "loopback is down");
    }
}

fn only_its_own_processes_are_visible() {
    for user in [User::me(), User::ordinary()] {
        assert_eq!(user.sh(&[], "echo /proc/[0-9]*; echo $$").ok().line(), "/proc/1\n1");
    }
}

fn standard_input_is_passed_through() {
    let user = User::ordinary();
    let mut run = user.command(&["run", "--rm", "host", "--", "tr", "a-z", "A-Z"]);
    assert_eq!(command::run_with(&mut run, b"hello\n", command::BOUND).ok().line(), "HELLO");
}

fn unknown_images_and_names_are_refused() {
    let user = User::ordinary();
    user.call(&["run", "--rm", "/absent/folder", "--", "true"]).exits(125).refused_with(&["/absent/folder"]);
    for name in ["..", "a/b", ""] {
        user.call(&["run", "--rm", "--name", name, "host", "--", "true"]).exits(125);
    }
    user.call(&["run", "--rm", "--share", "/absent/path", "host", "--", "true"])
        .exits(125)
        .refused_with(&["/absent/path"]);
}

fn the_default_filter_refuses_rarely_needed_calls() {
    let user = User::me();
    let program = format!(
        "import socket, ctypes\n\
        try: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET); print('AF_ALG')\n\
        except OSError: pass\n\
        libc = ctypes.CDLL(None)\n\
        if libc.syscall({}, 0, -3, 0) != -1: print('keyctl')\n\
        if libc.syscall({}, 0, 0, 0) != -1: print('bpf')\n\
        if libc.unshare(0x10000000) == 0: print('user namespace')",
        libc::SYS_keyctl,
        libc::SYS_bpf
    );
    assert_eq!(user.run(&[], &["/usr/bin/python3", "-c", &program]).ok().line(), "");
}
