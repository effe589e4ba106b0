//! Runs a piece of work that a checkpoint wrote (a chat template) within bounds of memory, stack and time.
//!
//! The template engine counts steps, but one step may double a string or compare two long ones. So the work gets a
//! thread of its own. Its allocations are counted by the allocator of this library; the one that would pass the budget
//! never returns: the thread is parked for good, because a failed allocation in Rust ends the process and an allocator
//! must not unwind. The caller sees it at once and goes on. A thread that takes too long is left to end by itself.

use crate::panics::catch;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::resume_unwind;
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub memory_bytes: i64,
    /// Only address space until it is touched.
    pub stack_bytes: usize,
    pub time: Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Exceeded {
    Memory,
    Time,
    /// Earlier work of this kind passed its limits and still holds its thread.
    Abandoned,
    NoThread,
}

/// How many threads one owner may have left behind before further work is refused.
const MAX_ABANDONED: usize = 2;

/// Counts the threads left behind on behalf of one owner.
#[derive(Default)]
pub struct Ledger {
    abandoned: AtomicUsize,
}

const RUNNING: u32 = 0;
const DONE: u32 = 1;
const OUT_OF_MEMORY: u32 = 2;
const LEFT_BEHIND: u32 = 3;

struct Control {
    state: AtomicU32,
    remaining_bytes: AtomicI64,
    caller: Thread,
}

pub fn run<T: Send + 'static>(
    ledger: &Arc<Ledger>,
    limits: Limits,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Exceeded> {
    if ledger.abandoned.load(Ordering::Relaxed) >= MAX_ABANDONED {
        return Err(Exceeded::Abandoned);
    }
    let control = Arc::new(Control {
        state: AtomicU32::new(RUNNING),
        remaining_bytes: AtomicI64::new(limits.memory_bytes),
        caller: thread::current(),
    });
    let result = Arc::new(Mutex::new(None));
    let (thread_control, thread_result, thread_ledger) = (control.clone(), result.clone(), ledger.clone());
    let body = move || {
        let outcome = within_budget(&thread_control, work);
        *thread_result.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        if thread_control.state.swap(DONE, Ordering::AcqRel) == LEFT_BEHIND {
            thread_ledger.abandoned.fetch_sub(1, Ordering::Relaxed);
        }
        thread_control.caller.unpark();
    };
    let builder = thread::Builder::new().name("chat template".into()).stack_size(limits.stack_bytes);
    builder.spawn(body).map_err(|_| Exceeded::NoThread)?;
    wait(ledger, &control, Instant::now() + limits.time)?;
    let outcome = result.lock().unwrap_or_else(PoisonError::into_inner).take();
    match outcome.ok_or(Exceeded::NoThread)? {
        Ok(value) => Ok(value),
        Err(panic) => resume_unwind(panic),
    }
}

fn wait(ledger: &Ledger, control: &Control, deadline: Instant) -> Result<(), Exceeded> {
    loop {
        match control.state.load(Ordering::Acquire) {
            DONE => return Ok(()),
            OUT_OF_MEMORY => {
                ledger.abandoned.fetch_add(1, Ordering::Relaxed);
                return Err(Exceeded::Memory);
            }
            _ => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() && leave_behind(ledger, control) {
            return Err(Exceeded::Time);
        }
        thread::park_timeout(left);
    }
}

/// False if the thread ended, or ran out of memory, just now.
fn leave_behind(ledger: &Ledger, control: &Control) -> bool {
    ledger.abandoned.fetch_add(1, Ordering::Relaxed);
    let left = control.state.compare_exchange(RUNNING, LEFT_BEHIND, Ordering::AcqRel, Ordering::Acquire).is_ok();
    if !left {
        ledger.abandoned.fetch_sub(1, Ordering::Relaxed);
    }
    left
}

thread_local! {
    /// Set while a thread works within a budget. Const and without a destructor: the allocator reads it.
    static BUDGET: Cell<*const Control> = const { Cell::new(ptr::null()) };
}

fn within_budget<T>(control: &Control, work: impl FnOnce() -> T) -> thread::Result<T> {
    BUDGET.set(control);
    let outcome = catch(work);
    BUDGET.set(ptr::null());
    outcome
}

/// The system's allocator, which charges what a thread within a budget allocates.
struct CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn charge(bytes: i64) {
    let budget = BUDGET.get();
    if budget.is_null() {
        return;
    }
    // SAFETY: `within_budget` borrows the control block for as long as the pointer is set.
    let control = unsafe { &*budget };
    if control.remaining_bytes.fetch_sub(bytes, Ordering::Relaxed) < bytes && bytes > 0 {
        BUDGET.set(ptr::null());
        // A thread that was left behind stays counted; it will not come back.
        let _ = control.state.compare_exchange(RUNNING, OUT_OF_MEMORY, Ordering::AcqRel, Ordering::Acquire);
        control.caller.unpark();
        loop {
            // SAFETY: pause takes nothing and only waits for a signal.
            unsafe { libc::pause() };
        }
    }
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        charge(layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        charge(layout.size() as i64);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        charge(new_size as i64 - layout.size() as i64);
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        charge(-(layout.size() as i64));
        unsafe { System.dealloc(pointer, layout) }
    }
}
