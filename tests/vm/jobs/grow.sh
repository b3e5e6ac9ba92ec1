#!/bin/sh
# Growing a mounted ext4 takes CAP_SYS_RESOURCE, which a build machine may lack.
exec /docklet/tests/storage --include-ignored --exact --nocapture \
    loop_ext4::grows_while_it_is_written_to loop_ext4::grows_at_rest loop_ext4::never_shrinks \
    loop_xfs::grows_while_it_is_written_to loop_btrfs::grows_while_it_is_written_to \
    loop_space::volume_space_growth_is_finished_after_a_crash
