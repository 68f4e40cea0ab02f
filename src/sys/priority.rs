//! How much of the machine this process takes where others want it, too.

/// Lets every other process go first: at the processor, and with most schedulers of the kernel at the disk, where a process
/// that asked for nothing else goes by the same number (`ioprio_get(2)`). That it could not is no error.
pub fn lower_priority() {
    let _ = rustix::process::nice(19);
}
