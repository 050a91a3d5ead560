//! The guest goes for the runtime's own executable (CVE-2019-5736).

use super::guest;
use crate::harness::{Case, Context, case, json, rounds, runtime};
use std::fs;
use std::os::unix::fs::PermissionsExt;

pub fn cases() -> Vec<Case> {
    vec![
        case!(the_executable_as_entry_point_cannot_be_written),
        case!(the_executable_as_interpreter_cannot_be_written),
        case!(a_writer_that_races_exec_never_gets_the_executable),
    ]
}

fn hash() -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    fs::read(runtime()).unwrap().hash(&mut hasher);
    hasher.finish()
}

/// All that a careless caller could grant: with it, only the runtime's own protection is left.
fn mighty(context: &mut Context) {
    let all = json!(["CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE", "CAP_FOWNER", "CAP_CHOWN", "CAP_KILL"]);
    context.set("/process/capabilities", json!({ "bounding": all, "effective": all, "permitted": all }));
    context.set("/root/readonly", json!(false));
}

fn the_executable_as_entry_point_cannot_be_written() {
    let before = hash();
    let mut context = Context::new();
    mighty(&mut context);
    context.args(&["/proc/self/exe", "--version"]);
    context.run();
    assert_eq!(hash(), before);
}

fn the_executable_as_interpreter_cannot_be_written() {
    let before = hash();
    let mut context = Context::new();
    mighty(&mut context);
    let script = context.root("run");
    fs::write(&script, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    context.args(&["/run"]);
    context.run();
    assert_eq!(hash(), before);
}

fn a_writer_that_races_exec_never_gets_the_executable() {
    let before = hash();
    let mut context = Context::new();
    mighty(&mut context);
    guest::bring(&mut context);
    context.args(&guest::args("overwrite-executables"));
    context.launch();
    // Each of these gives the guest a process that runs, or seems to run, the runtime's file.
    for _ in 0..rounds(200) {
        context.exec(&[], &["/proc/self/exe", "--version"]);
        context.exec(&[], &["true"]);
    }
    fs::write(context.root("stop"), "").unwrap();
    context.wait_stopped();
    let output = context.output();
    assert!(output.contains("refused: none was writable"), "{output}");
    assert!(!output.contains("seen 0\n"), "the attack has met nobody: {output}");
    assert_eq!(hash(), before);
}
