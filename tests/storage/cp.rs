//! `vctx cp`: what is copied, where it goes, and what a copy that fails leaves.

use super::{idle, image, stop, work};
use crate::harness::{Case, Need, case, command};
use crate::host_run::User;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        case!(files_go_in_and_out_of_a_running_and_a_stopped_context),
        case!(folders_go_where_docker_puts_them),
        case!(an_archive_goes_through_standard_input_and_output),
        case!(links_holes_modes_and_times_are_kept),
        case!(owners_are_those_of_each_side).needs(Need::Root),
        case!(set_id_bits_are_kept_only_when_asked),
        case!(special_files_are_refused_skipped_or_made).needs(Need::Root),
        case!(files_go_from_one_context_to_another),
        case!(what_cannot_be_copied_is_told_and_changes_nothing),
        case!(a_full_disk_leaves_nothing_of_a_copy),
        case!(a_killed_copy_is_cleaned_by_the_next),
        case!(a_large_file_costs_no_memory).needs(Need::Program("prlimit")),
    ]
}

fn files_go_in_and_out_of_a_running_and_a_stopped_context() {
    for user in [User::me(), User::ordinary()] {
        let name = idle(&user, &[]);
        fs::write(work(&user, "in"), "from outside").unwrap();
        user.call(&["cp", "in", &format!("{name}:/etc/in")]).ok();
        assert_eq!(user.call(&["exec", &name, "cat", "/etc/in"]).ok().line(), "from outside");
        user.call(&["exec", &name, "sh", "-c", "echo inside > /etc/out"]).ok();
        user.call(&["cp", &format!("{name}:/etc/out"), "out"]).ok();
        assert_eq!(fs::read_to_string(work(&user, "out")).unwrap(), "inside\n");
        stop(&user, &name);
        user.call(&["cp", &format!("{name}:/etc/out"), "again"]).ok();
        assert_eq!(fs::read_to_string(work(&user, "again")).unwrap(), "inside\n");
        user.call(&["cp", "in", &format!("{name}:/etc/late")]).ok();
        user.call(&["cp", &format!("{name}:/etc/late"), "late"]).ok();
        assert_eq!(fs::read_to_string(work(&user, "late")).unwrap(), "from outside");
        // The image stays as it is.
        assert!(!user.folder.join("image/etc/late").exists());
        user.call(&["delete", &name]).ok();
    }
}

fn folders_go_where_docker_puts_them() {
    let user = User::me();
    let name = idle(&user, &[]);
    fs::create_dir_all(work(&user, "tree/deep")).unwrap();
    fs::write(work(&user, "tree/deep/file"), "x").unwrap();
    fs::write(work(&user, "tree/top"), "y").unwrap();
    let to = |path: &str| format!("{name}:{path}");
    let find = |path: &str| {
        let found = user.call(&["exec", &name, "find", path]).ok().stdout;
        let mut found: Vec<_> = found.lines().map(str::to_owned).collect();
        found.sort();
        found.join(" ")
    };
    // A new name becomes the folder, an existing folder takes it in, and `/.` means what lies in it.
    user.call(&["cp", "tree", &to("/new")]).ok();
    assert_eq!(find("/new"), "/new /new/deep /new/deep/file /new/top");
    user.call(&["cp", "tree", &to("/new")]).ok();
    assert_eq!(find("/new/tree"), "/new/tree /new/tree/deep /new/tree/deep/file /new/tree/top");
    user.call(&["cp", "tree/.", &to("/other")]).ok();
    assert_eq!(find("/other"), "/other /other/deep /other/deep/file /other/top");
    user.call(&["exec", &name, "sh", "-c", "echo old > /other/top; touch /other/own"]).ok();
    user.call(&["cp", "tree/.", &to("/other")]).ok();
    assert_eq!(find("/other"), "/other /other/deep /other/deep/file /other/own /other/top");
    assert_eq!(user.call(&["exec", &name, "cat", "/other/top"]).ok().line(), "y");
    // A link at the end of a target leads on, inside.
    user.call(&["exec", &name, "ln", "-s", "/other/own", "/link"]).ok();
    user.call(&["cp", "tree/top", &to("/link")]).ok();
    assert_eq!(user.call(&["exec", &name, "cat", "/other/own"]).ok().line(), "y");
    // A path without a slash is one of the root.
    user.call(&["cp", &to("other/top"), "."]).ok();
    assert_eq!(fs::read_to_string(work(&user, "top")).unwrap(), "y");
    user.call(&["cp", &to("/other/."), "all"]).ok();
    assert_eq!(fs::read_to_string(work(&user, "all/deep/file")).unwrap(), "x");
}

fn an_archive_goes_through_standard_input_and_output() {
    for user in [User::me(), User::ordinary()] {
        let name = idle(&user, &[]);
        user.call(&[
            "exec",
            &name,
            "sh",
            "-c",
            "mkdir -p /d/e; echo one > /d/e/f; ln /d/e/f /d/g; ln -s e/f /d/h",
        ])
        .ok();
        let long = "n".repeat(120);
        user.call(&["exec", &name, "touch", &format!("/d/{long}")]).ok();
        let archive = File::create(work(&user, "out.tar")).unwrap();
        let mut cp = user.command(&["cp", &format!("{name}:/d"), "-"]);
        assert_eq!(command::exit_code(&mut cp.stdout(archive).spawn().unwrap()), 0);
        let listed = command::run(Command::new("tar").arg("tvf").arg(work(&user, "out.tar"))).ok().stdout;
        // Which of the two names comes first is the file system's.
        for part in [" d/e/f", " d/h -> e/f\n", "link to d/", &*long] {
            assert!(listed.contains(part), "{part} is missing in {listed}");
        }
        user.call(&["exec", &name, "mkdir", "/back"]).ok();
        let archive = File::open(work(&user, "out.tar")).unwrap();
        let mut cp = user.command(&["cp", "-", &format!("{name}:/back")]);
        assert_eq!(command::exit_code(&mut cp.stdin(archive).spawn().unwrap()), 0);
        let script = "cat /back/d/h; test /back/d/g -ef /back/d/e/f && echo same; ls /back/d";
        let printed = user.call(&["exec", &name, "sh", "-c", script]).ok().stdout;
        assert_eq!(printed, format!("one\nsame\ne\ng\nh\n{long}\n"));
        let mut cp = user.command(&["cp", "-", &format!("{name}:/absent")]);
        command::run_with(&mut cp, b"", Duration::from_secs(20)).refused_with(&["/absent"]);
        let mut cp = user.command(&["cp", "-", &format!("{name}:/back")]);
        command::run_with(&mut cp, &[b'x'; 2000], Duration::from_secs(20)).refused_with(&["checksum"]);
        assert_eq!(user.call(&["exec", &name, "ls", "-A", "/back"]).ok().stdout, "d\n");
        user.call(&["delete", "--force", &name]).ok();
    }
}

fn links_holes_modes_and_times_are_kept() {
    for user in [User::me(), User::ordinary()] {
        let name = idle(&user, &[]);
        let tree = work(&user, "tree");
        fs::create_dir(&tree).unwrap();
        let file = File::create(tree.join("hole")).unwrap();
        file.write_all_at(b"end", 64 << 20).unwrap();
        fs::hard_link(tree.join("hole"), tree.join("again")).unwrap();
        symlink("hole", tree.join("link")).unwrap();
        fs::write(tree.join("plain"), "x").unwrap();
        fs::set_permissions(tree.join("plain"), fs::Permissions::from_mode(0o640)).unwrap();
        command::run(
            Command::new("touch").args(["-d", "2001-02-03 04:05:06.789 UTC"]).arg(tree.join("plain")),
        )
        .ok();
        command::run(Command::new("touch").args(["-d", "2002-01-01 UTC"]).arg(&tree)).ok();
        command::run(Command::new("chown").args(["-R", "--reference"]).arg(user.path("work")).arg(&tree))
            .ok();
        command::run(Command::new("touch").args(["-d", "2002-01-01 UTC"]).arg(&tree)).ok();
        user.call(&["cp", "tree", &format!("{name}:/tree")]).ok();
        user.call(&["cp", &format!("{name}:/tree"), "back"]).ok();
        let back = work(&user, "back");
        let (one, two) =
            (fs::metadata(back.join("hole")).unwrap(), fs::metadata(back.join("again")).unwrap());
        assert_eq!((one.ino(), one.len()), (two.ino(), (64 << 20) + 3));
        assert!(one.blocks() < 4096, "{} blocks: the hole was filled", one.blocks());
        assert_eq!(fs::read_link(back.join("link")).unwrap().to_str(), Some("hole"));
        let plain = fs::metadata(back.join("plain")).unwrap();
        assert_eq!(
            (plain.mode() & 0o7777, plain.mtime(), plain.mtime_nsec()),
            (0o640, 981_173_106, 789_000_000)
        );
        assert_eq!(fs::metadata(&back).unwrap().mtime(), 1_009_843_200);
        user.call(&["delete", "--force", &name]).ok();
    }
}

fn owners_are_those_of_each_side() {
    let user = User::me();
    let name = idle(&user, &[]);
    user.call(&["exec", &name, "sh", "-c", "echo x > /theirs; chown 1234:567 /theirs"]).ok();
    let owner = |name: &str| {
        let about = fs::metadata(work(&user, name)).unwrap();
        (about.uid(), about.gid())
    };
    user.call(&["cp", &format!("{name}:/theirs"), "mine"]).ok();
    user.call(&["cp", "--archive", &format!("{name}:/theirs"), "kept"]).ok();
    assert_eq!((owner("mine"), owner("kept")), ((0, 0), (1234, 567)));
    for (options, wanted) in [(&[][..], "0:0"), (&["-a"], "1234:567")] {
        let to = format!("{name}:/back{}", options.len());
        user.call(&[&["cp"], options, &["kept", &to]].concat()).ok();
        let path = format!("/back{}", options.len());
        assert_eq!(user.call(&["exec", &name, "stat", "-c", "%u:%g", &path]).ok().line(), wanted);
    }
    // Root of an ordinary user's context is that user outside.
    let ordinary = User::ordinary();
    let other = idle(&ordinary, &[]);
    fs::write(work(&ordinary, "in"), "x").unwrap();
    ordinary.call(&["cp", "-a", &format!("{other}:/etc/passwd"), "passwd"]).ok();
    assert_eq!(fs::metadata(work(&ordinary, "passwd")).unwrap().uid(), 65534);
    ordinary.call(&["cp", "passwd", &format!("{other}:/in")]).ok();
    assert_eq!(ordinary.call(&["exec", &other, "stat", "-c", "%u", "/in"]).ok().line(), "0");
}

fn set_id_bits_are_kept_only_when_asked() {
    let user = User::me();
    let name = idle(&user, &[]);
    user.call(&["exec", &name, "sh", "-c", "cp /bin/busybox /tool; chmod 6755 /tool"]).ok();
    let mode = |name: &str| fs::metadata(work(&user, name)).unwrap().mode() & 0o7777;
    user.call(&["cp", &format!("{name}:/tool"), "plain"]).ok();
    user.call(&["cp", "-a", &format!("{name}:/tool"), "kept"]).ok();
    assert_eq!((mode("plain"), mode("kept")), (0o755, 0o6755));
}

fn special_files_are_refused_skipped_or_made() {
    let user = User::me();
    let name = idle(&user, &["--cap-add", "mknod"]);
    user.call(&[
        "exec",
        &name,
        "sh",
        "-c",
        "mkdir /d; mkfifo /d/pipe; mknod /d/null c 1 3; echo x > /d/file",
    ])
    .ok();
    let from = format!("{name}:/d");
    user.call(&["cp", &from, "d"]).refused_with(&["--special"]);
    assert!(!work(&user, "d").exists());
    assert_eq!(fs::read_dir(user.folder.join("work")).unwrap().count(), 0);
    user.call(&["cp", "--special", "skip", &from, "d"]).ok();
    assert_eq!(fs::read_dir(work(&user, "d")).unwrap().count(), 1);
    user.call(&["cp", "--special", "make", &from, "all"]).ok();
    let kinds = command::run(
        Command::new("stat")
            .args(["-c", "%F %t:%T %a"])
            .args([work(&user, "all/null"), work(&user, "all/pipe")]),
    );
    assert_eq!(kinds.ok().stdout, "character special file 1:3 644\nfifo 0:0 644\n");
}

fn files_go_from_one_context_to_another() {
    for user in [User::me(), User::ordinary()] {
        let name = idle(&user, &[]);
        let other = format!("{name}-other");
        user.call(&["run", "-d", "--name", &other, &user.path("image"), "--", "sleep", "1000"]).ok();
        user.call(&["exec", &name, "sh", "-c", "mkdir /d; echo x > /d/f"]).ok();
        user.call(&["cp", &format!("{name}:/d"), &format!("{other}:/d")]).ok();
        assert_eq!(user.call(&["exec", &other, "cat", "/d/f"]).ok().line(), "x");
        stop(&user, &name);
        user.call(&["cp", &format!("{name}:/d/f"), &format!("{other}:/again")]).ok();
        assert_eq!(user.call(&["exec", &other, "cat", "/again"]).ok().line(), "x");
        for one in [&name, &other] {
            user.call(&["delete", "--force", one]).ok();
        }
    }
}

fn what_cannot_be_copied_is_told_and_changes_nothing() {
    let user = User::me();
    let name = idle(&user, &["--tmpfs", "/memory"]);
    fs::create_dir(work(&user, "folder")).unwrap();
    fs::write(work(&user, "file"), "x").unwrap();
    let at = |path: &str| format!("{name}:{path}");
    let refused = |args: &[&str], word: &str| {
        user.call(&[&["cp"], args].concat()).refused_with(&[word]);
    };
    refused(&["file", "absent:/x"], "absent");
    refused(&["file", "elsewhere"], "neither side");
    refused(&["-", "-"], "neither side");
    refused(&["file", &at("/no/folder")], "/no/folder");
    refused(&["file", &at("/new/")], "/new/");
    refused(&["absent", &at("/x")], "absent");
    refused(&[&at("/absent"), "x"], "/absent");
    refused(&["folder", &at("/etc/passwd")], "no folder");
    refused(&["file/", &at("/x")], "no folder");
    user.call(&["exec", &name, "mkdir", "-p", "/d/file"]).ok();
    refused(&["file", &at("/d")], "a folder");
    stop(&user, &name);
    refused(&["file", &at("/memory/x")], "read-only");
    assert_eq!(fs::read_dir(user.folder.join("work")).unwrap().count(), 2);
    user.call(&["cp", "--help"]).ok();
}

fn a_full_disk_leaves_nothing_of_a_copy() {
    for user in [User::me(), User::ordinary()] {
        let name = idle(&user, &["--tmpfs", "/small:size=1m"]);
        fs::create_dir(work(&user, "tree")).unwrap();
        fs::write(work(&user, "tree/first"), "x").unwrap();
        fs::write(work(&user, "tree/large"), vec![1; 4 << 20]).unwrap();
        user.call(&["cp", "tree", &format!("{name}:/small")]).refused_with(&["no space"]);
        assert_eq!(user.call(&["exec", &name, "ls", "-A", "/small"]).ok().stdout, "");
        user.call(&["delete", "--force", &name]).ok();
    }
}

fn a_killed_copy_is_cleaned_by_the_next() {
    let user = User::me();
    let name = idle(&user, &[]);
    let tree = work(&user, "tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..400 {
        fs::write(tree.join(format!("{number}")), vec![7; 20_000]).unwrap();
    }
    let mut left = 0;
    for round in 0..20 {
        let mut cp = user.command(&["cp", "tree", &format!("{name}:/tree")]);
        let mut cp = cp.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        command::wait_for_exit(cp.id(), Duration::from_millis(1 + round * 3));
        let _ = cp.kill();
        cp.wait().unwrap();
        let names = user.call(&["exec", &name, "ls", "-A", "/"]).ok().stdout;
        left += u32::from(names.contains(".vctx-cp-"));
        // Whole or not at all.
        if names.lines().any(|line| line == "tree") {
            assert_eq!(user.call(&["exec", &name, "sh", "-c", "ls /tree | wc -l"]).ok().line(), "400");
        }
        user.call(&["exec", &name, "rm", "-rf", "/tree"]).ok();
    }
    assert!(left > 0, "no copy was killed while it copied");
    user.call(&["cp", "tree/1", &format!("{name}:/one")]).ok();
    let names = user.call(&["exec", &name, "ls", "-A", "/"]).ok().stdout;
    assert!(!names.contains(".vctx-cp-"), "{names}");
}

fn a_large_file_costs_no_memory() {
    let user = User::me();
    let image = image(&user);
    let name = user.marker.clone();
    user.call(&["run", "-d", "--name", &name, &image, "--", "sleep", "1000"]).ok();
    let script = "head -c 300000000 /dev/urandom > /large";
    user.call(&["exec", &name, "sh", "-c", script]).ok();
    let plain = user.command(&["cp", &format!("{name}:/large"), "large"]);
    let mut limited = Command::new("prlimit");
    limited.arg("--as=100000000").arg(plain.get_program()).args(plain.get_args());
    limited.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command::run(limited.current_dir(user.folder.join("work"))).ok();
    assert_eq!(fs::metadata(work(&user, "large")).unwrap().len(), 300_000_000);
}
