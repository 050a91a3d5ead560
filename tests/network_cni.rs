//! Networks that CNI plugins make: those of Debian's containernetworking-plugins, and plugins that misbehave.

use crate::harness::net::{Host, SERVER, wget, within};
use crate::harness::{Case, Need, case, eventually, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where the distribution has the plugins.
const PLUGINS: &str = "/usr/lib/cni";

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(plugins_give_a_context_addresses_names_and_the_outside).needs(Need::Program("iptables")),
        case!(plugins_lead_ports_to_a_context).needs(Need::Program("iptables")),
        case!(an_address_that_is_asked_for_is_passed_on),
        case!(each_plugin_gets_what_it_should_and_no_more),
        case!(what_plugins_have_made_goes_after_a_kill_and_after_a_reboot),
        case!(a_plugin_that_fails_undoes_the_start),
        case!(a_plugin_that_hangs_is_ended),
        case!(a_configuration_that_cannot_be_used_is_refused),
    ];
    let needs =
        [Need::Vctx, Need::Program("ip"), Need::Program("nsenter"), Need::Path("/usr/lib/cni/bridge")];
    let with = |case: Case| needs.into_iter().fold(case, Case::needs);
    cases.into_iter().map(with).collect()
}

/// A host with configurations and plugins of its own.
struct Cni {
    host: Host,
    configurations: PathBuf,
    plugins: PathBuf,
}

impl Cni {
    fn new() -> Cni {
        let host = Host::new();
        let [configurations, plugins] = ["net.d", "plugins"].map(|name| host.folder.join(name));
        [&configurations, &plugins].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
        Cni { host, configurations, plugins }
    }

    /// A bridge with addresses of the plugin host-local, whose file lies with the test.
    fn bridge(&self, rest: &str) {
        let store = self.host.folder.join("leases");
        let text = format!(
            r#"{{ "cniVersion": "0.4.0", "name": "usual", "plugins": [
                {{ "type": "bridge", "bridge": "cni7", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                   "ipam": {{ "type": "host-local", "dataDir": {store:?}, "routes": [{{ "dst": "0.0.0.0/0" }}],
                              "ranges": [[{{ "subnet": "10.77.0.0/24" }}]] }},
                   "dns": {{ "nameservers": ["192.0.2.53"], "search": ["here.example"] }} }}{rest} ] }}"#
        );
        fs::write(self.configurations.join("10-usual.conflist"), text).unwrap();
    }

    fn script(&self, name: &str, script: &str) {
        let path = self.plugins.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn vctx(&self) -> Command {
        let mut command = self.host.vctx();
        command.env("NETCONFPATH", &self.configurations);
        command.env("CNI_PATH", format!("{}:{PLUGINS}", self.plugins.display()));
        command
    }

    #[track_caller]
    fn call(&self, args: &[&str]) -> crate::harness::Output {
        run(self.vctx().args(args))
    }

    #[track_caller]
    fn start(&self, name: &str, options: &[&str], script: &str) -> crate::harness::Output {
        let (id, root) = (self.host.id(name), self.host.folder.join("rootfs"));
        let mut command = self.vctx();
        command.args(["run", "--name", &id, "--hostname", name]).args(options).arg(root);
        run(command.args(["--", "sh", "-c", script]))
    }

    #[track_caller]
    fn delete(&self, name: &str) {
        let id = self.host.id(name);
        self.call(&["delete", "--force", &id]).ok();
    }

    /// Addresses that host-local has given.
    fn leases(&self) -> Vec<String> {
        let entries = fs::read_dir(self.host.folder.join("leases/usual")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("10.")).collect()
    }

    fn attachments(&self) -> usize {
        let found = run(Command::new("find").arg(&self.host.folder).args(["-path", "*/networks/cni/*.json"]));
        found.ok().stdout.lines().count()
    }
}

impl Drop for Cni {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!((self.attachments(), self.leases()), (0, Vec::new()), "attachments, and leases");
        }
        crate::harness::command::quietly(Command::new("ip").args([
            "-n",
            &self.host.name,
            "link",
            "del",
            "cni7",
        ]));
    }
}

fn asked(namespace: &str, server: &str) -> Option<String> {
    let script = wget(server, 1).replacen("wget", "busybox wget", 1);
    let answer = run(within(namespace, Path::new("sh")).args(["-c", &script])).stdout;
    Some(answer).filter(|answer| !answer.trim().is_empty())
}

fn plugins_give_a_context_addresses_names_and_the_outside() {
    let cni = Cni::new();
    cni.bridge("");
    cni.host.serve(&cni.host.outside());
    cni.start("one", &["-d", "--net", "cni:usual"], SERVER).ok();
    cni.start("two", &["-d", "--net", "cni:usual"], "sleep 1000").ok();
    assert_eq!(cni.leases().len(), 2);
    assert!(cni.host.asks("two", "10.77.0.2").contains("10.77.0.3"));
    assert!(cni.host.asks("two", "192.0.2.2").contains("192.0.2.1"));
    let names = cni.host.exec("two", "cat /etc/hosts /etc/resolv.conf; ping -c 1 two | head -1").ok().stdout;
    assert!(names.contains("10.77.0.3\t") && names.contains("PING two (10.77.0.3)"), "{names}");
    assert!(names.contains("nameserver 192.0.2.53\nsearch here.example\n"), "{names}");
    let rows = cni.call(&["network", "ls"]).ok().stdout;
    assert!(rows.lines().any(|row| row.split_whitespace().take(2).eq(["cni:usual", "cni"])), "{rows}");
    let about = cni.call(&["network", "inspect", "cni:usual"]).ok().stdout;
    assert!(about.contains(&cni.host.id("one")) && about.contains("10.77.0.2"), "{about}");
    cni.call(&["network", "rm", "cni:usual"]).refused_with(&["10-usual.conflist"]);
    // What lives is asked after.
    assert_eq!(cni.call(&["network", "prune"]).ok().stdout, "");
    run(Command::new("ip").args(["-n", &cni.host.name, "link", "del", "cni7"])).ok();
    let said = cni.call(&["network", "prune"]).ok().stdout;
    assert!(said.contains(&cni.host.id("one")) && said.contains("\"bridge\" fails at CHECK"), "{said}");
    cni.delete("one");
    cni.delete("two");
}

fn plugins_lead_ports_to_a_context() {
    let cni = Cni::new();
    cni.bridge(r#", { "type": "portmap", "capabilities": { "portMappings": true } }"#);
    let rules = || run(cni.host.inside("iptables-save").args(["-t", "nat"])).ok().stdout;
    cni.start("web", &["-d", "--net", "cni:usual", "-p", "8080:80"], SERVER).ok();
    let answer = eventually("the server", 5, || asked(&cni.host.outside(), "192.0.2.1:8080"));
    assert!(answer.contains("192.0.2.2"), "{answer}");
    assert!(rules().contains("8080"));
    cni.delete("web");
    let left = rules();
    assert!(!left.contains("8080") && !left.contains("10.77.0.2"), "{left}");
}

fn an_address_that_is_asked_for_is_passed_on() {
    let cni = Cni::new();
    cni.bridge("");
    let seen =
        cni.start("one", &["--rm", "--net", "cni:usual", "--ip", "10.77.0.99"], "ip -o addr show eth0");
    assert!(seen.ok().stdout.contains("10.77.0.99/24"));
    cni.start("one", &["--rm", "--net", "cni:usual", "-p", "80:80"], "true").refused_with(&["portmappings"]);
}

fn each_plugin_gets_what_it_should_and_no_more() {
    let cni = Cni::new();
    let seen = cni.host.folder.join("seen");
    fs::create_dir(&seen).unwrap();
    for (name, answer) in [("first", r#"{ "cniVersion": "1.0.0", "ips": [] }"#), ("second", "$(cat)")] {
        let dump = format!("{}/{name}-$CNI_COMMAND", seen.display());
        let script =
            format!("env >{dump}.env; cat >{dump}.json; test $CNI_COMMAND = ADD && echo '{answer}'; exit 0");
        let script = if name == "second" {
            script
                .replace("echo '$(cat)'", "echo '{ \"cniVersion\": \"1.0.0\", \"ips\": [], \"routes\": [] }'")
        } else {
            script
        };
        cni.script(name, &script);
    }
    let text = r#"{ "cniVersion": "1.0.0", "name": "two", "plugins": [
        { "type": "first", "capabilities": { "portMappings": true }, "own": 7 }, { "type": "second" } ] }"#;
    fs::write(cni.configurations.join("two.conflist"), text).unwrap();
    cni.start("one", &["--rm", "--net", "cni:two", "-p", "127.0.0.1:8080:80"], "true").ok();
    let read =
        |file: &str| fs::read_to_string(seen.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let value = |file: &str| serde_json::from_str::<serde_json::Value>(&read(file)).unwrap();
    let add = value("first-ADD.json");
    assert_eq!((&add["name"], &add["cniVersion"], &add["own"]), (&"two".into(), &"1.0.0".into(), &7.into()));
    assert_eq!(add["runtimeConfig"]["portMappings"][0]["hostIP"], "127.0.0.1");
    assert_eq!((add.get("prevResult"), add.get("capabilities")), (None, None));
    let second = value("second-ADD.json");
    assert!(second["prevResult"]["ips"].is_array() && second.get("runtimeConfig").is_none(), "{second}");
    // Both are asked to delete, with what the last one has said.
    for file in ["first-DEL.json", "second-DEL.json"] {
        assert!(value(file)["prevResult"]["routes"].is_array());
    }
    let environment = read("first-ADD.env");
    let mut names: Vec<&str> = environment.lines().filter_map(|line| line.split('=').next()).collect();
    names.retain(|name| !matches!(*name, "PWD" | "_" | "SHLVL" | "OLDPWD"));
    names.sort();
    let expected =
        ["CNI_ARGS", "CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_PATH", "PATH"];
    assert_eq!(names, expected);
    assert!(read("second-DEL.env").contains("/netns\n"), "the namespace is there until it was left");
}

fn what_plugins_have_made_goes_after_a_kill_and_after_a_reboot() {
    let cni = Cni::new();
    cni.bridge("");
    let mut ids = Vec::new();
    for moment in 0..crate::harness::rounds(20) {
        let id = cni.host.id(&format!("k{moment}"));
        let mut command = cni.vctx();
        command.args(["run", "-d", "--name", &id, "--net", "cni:usual"]).arg(cni.host.folder.join("rootfs"));
        command.args(["--", "sleep", "1000"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_micros(u64::from(moment) * 5000));
        let _ = child.kill();
        let _ = child.wait();
        if moment % 2 == 0 {
            cni.call(&["delete", "--force", &id]).ok();
        }
        ids.push(id);
    }
    // A plugin that was at work goes on for a moment.
    eventually("the end of the plugins", 10, || {
        let at_work =
            run(Command::new("sh").args(["-c", "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"]))
                .stdout;
        (!at_work.contains(&format!("CNI_CONTAINERID={}", cni.host.name))).then_some(())
    });
    cni.call(&["network", "prune"]).ok();
    ids.iter().for_each(|id| drop(cni.call(&["delete", "--force", id]).ok()));
    assert_eq!((cni.attachments(), cni.leases()), (0, Vec::new()));
    // After a reboot the state is gone, and what host-local keeps is not.
    cni.start("one", &["-d", "--net", "cni:usual"], "sleep 1000").ok();
    let (id, state) = (cni.host.id("one"), cni.host.folder.join("state"));
    cni.call(&["kill", &id, "KILL"]).ok();
    run(Command::new("umount").arg("-l").arg(state.join(&id).join("netns"))).ok();
    let groups = crate::harness::leaks::control_groups(&id);
    eventually("the end of the context", 5, || {
        groups.iter().rev().for_each(|group| drop(fs::remove_dir(group)));
        crate::harness::leaks::control_groups(&id).is_empty().then_some(())
    });
    fs::remove_dir_all(state.join(&id)).unwrap();
    assert_eq!(cni.leases(), ["10.77.0.2"].map(|_| cni.leases()[0].clone()));
    assert!(cni.call(&["network", "prune"]).ok().stdout.contains("which is gone"));
}

fn a_plugin_that_fails_undoes_the_start() {
    let cni = Cni::new();
    for (script, said) in [
        (
            r#"echo '{ "code": 11, "msg": "no luck", "details": "today" }'; exit 1"#,
            "fails at add: no luck: today",
        ),
        ("echo nonsense; exit 0", "prints no result"),
        ("exit 0", "prints no result"),
        ("echo [1]", "prints no result"),
        ("exit 3", "fails at add: exit status: 3"),
        ("yes", "says more than a mebibyte"),
        ("kill -9 $$", "fails at add: signal: 9"),
    ] {
        cni.script("odd", &format!("test \"$CNI_COMMAND\" = DEL && exit 0\n{script}"));
        cni.bridge(r#", { "type": "odd" }"#);
        cni.start("one", &["-d", "--net", "cni:usual"], "sleep 1000")
            .refused_with(&["\"odd\""])
            .refused_with(&[said]);
        assert_eq!((cni.attachments(), cni.leases()), (0, Vec::new()), "{script}");
    }
    // One that cannot delete keeps what is written down, and says where.
    cni.script("odd", "test $CNI_COMMAND = ADD || exit 1; echo '{ \"cniVersion\": \"0.4.0\" }'");
    cni.bridge(r#", { "type": "odd" }"#);
    cni.start("one", &["-d", "--net", "cni:usual"], "sleep 1000").ok();
    let id = cni.host.id("one");
    cni.call(&["delete", "--force", &id])
        .refused_with(&["mend the plugin"])
        .refused_with(&[&format!("{id}.json")]);
    cni.script("odd", "exit 0");
    cni.delete("one");
}

fn a_plugin_that_hangs_is_ended() {
    let cni = Cni::new();
    // It neither reads, nor ends, nor lets go of its output.
    cni.script("odd", "test $CNI_COMMAND = DEL && exit 0; sleep 1001 & sleep 1001");
    let text = r#"{ "cniVersion": "0.4.0", "name": "odd", "type": "odd" }"#;
    fs::write(cni.configurations.join("odd.conf"), text).unwrap();
    let start = Instant::now();
    cni.start("one", &["-d", "--net", "cni:odd"], "true").refused_with(&["does not end its add"]);
    assert!(start.elapsed() >= Duration::from_secs(29), "it had its time");
    let left =
        run(Command::new("sh").args(["-c", "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"])).stdout;
    assert!(!left.contains(&format!("CNI_CONTAINERID={}", cni.host.name)), "it still runs");
    // One that has left something behind is not waited for.
    cni.script("odd", "test $CNI_COMMAND = DEL && exit 0; sleep 1001 & echo '{ \"cniVersion\": \"0.4.0\" }'");
    let start = Instant::now();
    cni.start("one", &["--rm", "--net", "cni:odd"], "true").ok();
    assert!(start.elapsed() < Duration::from_secs(25));
}

fn a_configuration_that_cannot_be_used_is_refused() {
    let cni = Cni::new();
    for (text, said) in [
        ("", "no configuration in"),
        ("{", "is damaged"),
        (r#"{ "cniVersion": "0.4.0", "name": "x", "plugins": [] }"#, "it has no plugins"),
        (r#"{ "cniVersion": "0.1.0", "name": "x", "type": "bridge" }"#, "cniversion"),
        (r#"{ "cniVersion": "0.4.0", "name": "x", "type": "../../bin/sh" }"#, "no file name"),
        (r#"{ "cniVersion": "0.4.0", "name": "x", "type": "absent" }"#, "containernetworking-plugins"),
    ] {
        let file = cni.configurations.join("x.conflist");
        if text.is_empty() {
            drop(fs::remove_file(&file))
        } else {
            fs::write(&file, text).unwrap()
        }
        cni.start("one", &["--rm", "--net", "cni:x"], "true").refused_with(&[said]);
    }
    assert!(!cni.host.folder.join("state").join(cni.host.id("one")).exists());
}
