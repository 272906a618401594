from webhookd.testing import check_datasource

from webhookd_gitea import Gitea


def test_gitea():
    check_datasource(Gitea())
