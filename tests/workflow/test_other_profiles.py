"""The profiles for Kubernetes and other schedulers: dry runs, since there is nothing here to run them on."""

import pytest


def test_another_scheduler(fresh):
    pytest.importorskip("snakemake_executor_plugin_cluster_generic")
    assert fresh.dry_run("--workflow-profile", fresh.project / "profiles" / "cluster-generic") == fresh.dry_run()


def test_kubernetes(fresh, tmp_path):
    """A folder stands in for the bucket, which even a dry run asks for what is in it."""
    pytest.importorskip("snakemake_executor_plugin_kubernetes")
    pytest.importorskip("snakemake_storage_plugin_fs")
    bucket = ["--default-storage-provider", "fs", "--default-storage-prefix", tmp_path / "bucket"]
    profile = fresh.project / "profiles" / "kubernetes"
    assert len(fresh.dry_run("--workflow-profile", profile, *bucket)) == len(fresh.dry_run())
