//! The image replaces what the runtime takes for devices (CVE-2025-31133, CVE-2025-62161), or the guest reaches the
//! host's own nodes through those that it was given.

use crate::harness::{Case, Context, case, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_null_device_of_the_images_unmasks_nothing),
        case!(the_hosts_null_device_keeps_its_mode),
        case!(no_other_device_can_be_made_or_opened),
    ]
}

/// The context's /dev is a folder of somebody else's, in which null is a file, or a link to one.
fn a_null_device_of_the_images_unmasks_nothing() {
    for null_is_a_link in [false, true] {
        let mut context = Context::sh("cat /secret; echo end");
        let mounts = context.spec.pointer_mut("/mounts").unwrap().as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        let dev = context.dir.join("dev");
        fs::create_dir(&dev).unwrap();
        fs::write(context.root("secret"), "secret\n").unwrap();
        fs::write(context.root("content"), "exposed\n").unwrap();
        match null_is_a_link {
            true => symlink("/content", dev.join("null")).unwrap(),
            false => fs::write(dev.join("null"), "exposed\n").unwrap(),
        }
        context.bind("/dev", &dev, &["bind"]);
        context.set("/linux/maskedPaths", json!(["/secret"]));
        let output = context.run();
        assert!(!output.stdout.contains("exposed") && !output.stdout.contains("secret"), "{}", output.stdout);
    }
}

/// What hides a path is the host's own device: to change its mode, if only to what it is, must be refused.
fn the_hosts_null_device_keeps_its_mode() {
    let mode = || fs::metadata("/dev/null").unwrap().permissions().mode() & 0o777;
    let before = mode();
    let mut context = Context::sh(&format!(
        "for f in /proc/keys /proc/timer_list; do chmod {before:o} $f && echo changed; done; echo end"
    ));
    let all = json!(["CAP_FOWNER", "CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
    context.set("/process/capabilities", json!({ "bounding": all, "effective": all, "permitted": all }));
    context.set("/linux/maskedPaths", json!(["/proc/keys", "/proc/timer_list"]));
    assert_eq!(context.run().stdout, "end\n");
    assert_eq!(mode(), before);
}

fn no_other_device_can_be_made_or_opened() {
    // The disk, memory, and two that open on nearly every machine; some machines deny the first two to all.
    let devices = ["disk b 254 0", "mem c 1 1", "tun c 10 200", "fuse c 10 229"];
    let tries = devices.map(|device| {
        let name = device.split(' ').next().unwrap();
        format!("mknod /tmp/{device}; (exec 3</tmp/{name}) 2>/dev/null && echo opened {name};")
    });
    let mut context = Context::sh(&format!("{} echo end", tries.concat()));
    context.mount("/tmp", "tmpfs", "tmpfs", &["mode=1777"]);
    let all = json!(["CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_SYS_RAWIO"]);
    context.set("/process/capabilities", json!({ "bounding": all, "effective": all, "permitted": all }));
    context.set("/linux/resources/devices", json!([{ "allow": false, "access": "rwm" }]));
    assert_eq!(context.run().stdout, "end\n", "a device was opened");
}
