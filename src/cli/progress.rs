//! Shows how far a long job has come: a bar for a person, a line now and then for a journal, one line on SIGUSR1.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::base::clock::Stopwatch;
use crate::base::progress::{Progress, Snapshot};
use crate::base::units;
use crate::cli::output::{Output, say};

/// How often a bar is drawn.
const DRAW: Duration = Duration::from_millis(100);
/// How often a line is told where no bar can be drawn.
const TELL: Duration = Duration::from_secs(30);

/// Shows a job's progress until it is dropped.
#[derive(Debug)]
pub(crate) struct Show {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Show {
    /// Starts showing.
    pub(crate) fn start(progress: &Progress, output: &Output) -> Self {
        let (done, ended) = channel();
        let progress = progress.clone();
        let (draws, tells) =
            (output.draws_progress() && !output.is_json(), output.tells_progress() && !output.is_json());
        // A system that gives no more threads gets its work done without being shown it.
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(move || {
            if draws {
                draw(&progress, &ended);
            } else if tells {
                tell(&progress, &ended);
            }
        });
        Show { done: Some(done), thread: thread.ok() }
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            // A panic while drawing must not hide the job's own result.
            let _ = thread.join();
        }
    }
}

fn waited(ended: &Receiver<()>, time: Duration) -> bool {
    matches!(ended.recv_timeout(time), Err(RecvTimeoutError::Timeout))
}

fn draw(progress: &Progress, ended: &Receiver<()>) {
    let bar = ProgressBar::new(0);
    let known = style("{msg:24} {wide_bar} {bytes:>11} of {total_bytes:11} {binary_bytes_per_sec:>13}  {eta:>4}");
    let unknown = style("{msg:24} {spinner} {bytes:>11} {binary_bytes_per_sec:>13}");
    let mut stage = "";
    while waited(ended, DRAW) {
        let look = progress.look();
        if look.stage != stage {
            stage = look.stage;
            bar.reset();
            bar.set_style(if look.total_bytes > 0 { known.clone() } else { unknown.clone() });
            bar.set_length(look.total_bytes);
            bar.set_message(stage);
            // What was done before the first look says nothing about the rate.
            bar.set_position(look.done_bytes);
            bar.reset_eta();
        }
        bar.set_position(look.done_bytes);
        bar.tick();
    }
    bar.finish_and_clear();
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant").progress_chars("=> ")
}

fn tell(progress: &Progress, ended: &Receiver<()>) {
    let watch = Stopwatch::start();
    while waited(ended, TELL) {
        say(&line(&progress.look(), watch.elapsed()));
    }
}

/// One line about a job.
pub(crate) fn line(look: &Snapshot, elapsed: Duration) -> String {
    let stage = if look.stage.is_empty() { "starting" } else { look.stage };
    let of = match look.total_bytes {
        0 => String::new(),
        total => format!(" of {}", units::bytes(total)),
    };
    format!("{stage}: {}{of} after {}", units::bytes(look.done_bytes), units::duration(elapsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_stage_bytes_and_time() {
        let look = Snapshot { stage: "reading", done_bytes: 1024, total_bytes: 4096 };
        assert_eq!(line(&look, Duration::from_millis(5)), "reading: 1.00 KiB of 4.00 KiB after 5 ms");
        assert_eq!(line(&Snapshot::default(), Duration::ZERO), "starting: 0 B after 0 ms");
    }
}
