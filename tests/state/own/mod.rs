//! What is the embedded engine's own: its file, its one process, and what becomes of it when that is killed.

mod file;
mod killed;
mod process;
mod under_way;
