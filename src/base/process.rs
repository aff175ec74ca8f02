//! What the system says of this process: memory, processor time, files.

use std::fs;

/// Ticks of a second in what Linux tells of times, on every architecture that it runs on.
const TICKS_PER_S: f64 = 100.0;

/// How a process stands. What the system does not tell is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Memory that is resident, in bytes.
    pub resident_bytes: u64,
    /// Memory that was ever asked for, in bytes.
    pub virtual_bytes: u64,
    /// Seconds of processor time.
    pub cpu_s: f64,
    /// Files and sockets that are open.
    pub files: u64,
}

/// How this process stands now.
pub fn usage() -> Usage {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    };
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; fields are counted after it.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    Usage {
        resident_bytes: kib("VmRSS:").unwrap_or_default() * 1024,
        virtual_bytes: kib("VmSize:").unwrap_or_default() * 1024,
        cpu_s: (ticks(11) + ticks(12)) / TICKS_PER_S,
        files: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
    }
}

/// How many files and sockets this process may have open.
pub fn files_max() -> u64 {
    soft_limit("Max open files")
}

/// How many bytes of memory this process may ask for.
pub fn virtual_max() -> u64 {
    soft_limit("Max address space")
}

/// A limit. Read, not asked for: a service may be forbidden the call.
fn soft_limit(name: &str) -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    // "unlimited" is no number.
    soft.and_then(|soft| soft.parse().ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_time_and_files() {
        let usage = usage();
        assert!(usage.resident_bytes > 1 << 20 && usage.virtual_bytes >= usage.resident_bytes, "{usage:?}");
        assert!(usage.files >= 3 && usage.files < files_max(), "{usage:?}");
        assert!(usage.virtual_bytes < virtual_max(), "{usage:?}");
    }
}
