#!/bin/sh
# Growing a mounted volume takes CAP_SYS_RESOURCE, which a build machine may lack.
exec /docklet/tests/host --include-ignored --exact --nocapture \
    volume_space::volume_space_grows_under_writes_or_says_what_it_needs \
    volume_space::volume_space_growth_is_finished_after_a_crash
