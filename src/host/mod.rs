//! One machine: specifications become running containers, and stay so.
